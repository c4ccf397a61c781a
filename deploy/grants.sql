-- The least rights with which everything runs, for the profile laravel (MySQL 8, MariaDB 10.6 or later).
-- Made by: erp-sync profile grants laravel --shop shop --ledger erp_sync
-- Create the users first, each with a password of its own and for the hosts that erp_sync runs on, such as:
--   CREATE USER 'erp_sync_shop'@'%' IDENTIFIED BY '...' REQUIRE SSL;

-- ERP_SYNC_SHOP_URL: reads the tables that the profile names, writes the columns that it writes.
GRANT SELECT ON shop.addresses TO 'erp_sync_shop'@'%';
GRANT SELECT ON shop.customers TO 'erp_sync_shop'@'%';
GRANT SELECT ON shop.order_items TO 'erp_sync_shop'@'%';
GRANT SELECT ON shop.orders TO 'erp_sync_shop'@'%';
GRANT SELECT ON shop.products TO 'erp_sync_shop'@'%';
GRANT UPDATE (status, erp_number, invoice_number, invoice_series, invoice_key, invoiced_at, tracking_code, delivered_at) ON shop.orders TO 'erp_sync_shop'@'%';
GRANT UPDATE (stock) ON shop.products TO 'erp_sync_shop'@'%';

-- ERP_SYNC_LEDGER_URL, of everything that runs.
GRANT SELECT, INSERT, UPDATE, DELETE ON `erp\_sync`.* TO 'erp_sync_ledger'@'%';

-- ERP_SYNC_LEDGER_URL, of erp-sync migrate alone: run it with this user before a new version starts.
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX ON `erp\_sync`.* TO 'erp_sync_migrate'@'%';
