"""What is said of each kind of incident: what is wrong, why, who can fix it, and the next step."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Language = Literal["pt-BR", "en"]


class Who(enum.StrEnum):
    SHOP = "shop"
    ERP = "erp"
    OPS = "ops"
    INTEGRATION = "integration"


WHO: dict[Who, dict[Language, str]] = {
    Who.SHOP: {"pt-BR": "equipe da loja", "en": "the shop's team"},
    Who.ERP: {"pt-BR": "equipe do ERP (Protheus)", "en": "the ERP's team (Protheus)"},
    Who.OPS: {"pt-BR": "operação (plantão)", "en": "operations (on call)"},
    Who.INTEGRATION: {"pt-BR": "equipe de integração", "en": "the integration's team"},
}


class Unit(enum.StrEnum):
    """What an incident counts."""

    NOTHING = ""
    ORDERS = "orders"
    PRODUCTS = "products"
    VALUES = "values"


UNITS: dict[Unit, dict[Language, tuple[str, str]]] = {
    Unit.ORDERS: {"pt-BR": ("pedido", "pedidos"), "en": ("order", "orders")},
    Unit.PRODUCTS: {"pt-BR": ("produto", "produtos"), "en": ("product", "products")},
    Unit.VALUES: {"pt-BR": ("item", "itens"), "en": ("item", "items")},
}
"""One of them, and many."""


@dataclass(frozen=True, slots=True)
class Kind:
    who: Who
    unit: Unit
    texts: dict[Language, tuple[str, str, str]]
    """Title, cause, next step."""


def _kind(who: Who, unit: Unit, portuguese: tuple[str, str, str], english: tuple[str, str, str]) -> Kind:
    return Kind(who, unit, {"pt-BR": portuguese, "en": english})


KINDS: dict[str, Kind] = {
    "run_failed": _kind(
        Who.OPS,
        Unit.NOTHING,
        (
            "Execução falhou",
            "O sistema falhou (loja, ERP ou banco fora do ar, ou login recusado); nenhum pedido se perdeu.",
            "Veja a causa na execução. O próximo ciclo tenta de novo; se o dia ficar vermelho, faça o backfill.",
        ),
        (
            "A run failed",
            "The system failed (shop, ERP or database away, or the login refused); no order is lost.",
            "See the cause in the run. The next pass tries again by itself; backfill the day if it stays red.",
        ),
    ),
    "lost_run": _kind(
        Who.OPS,
        Unit.NOTHING,
        (
            "Execução sem sinal de vida",
            "O processo da execução morreu (memória, reinício ou queda da máquina); o que ela fazia será retomado.",
            "Verifique memória e reinícios do container. Os pedidos em dúvida são conferidos no ERP antes de reenviar.",
        ),
        (
            "A run gives no sign of life",
            "Its process died (memory, a restart, the machine); what it was doing is taken up again.",
            "Check the container's memory and restarts. Orders in doubt are looked up in the ERP before they are sent.",
        ),
    ),
    "tick_failed": _kind(
        Who.INTEGRATION,
        Unit.NOTHING,
        (
            "Sensor ou agendamento com erro",
            "O sensor ou agendamento não conseguiu rodar; enquanto isso, ninguém inicia este fluxo.",
            "Abra o tick em Automation no Dagster e corrija o erro mostrado; até lá use `erp-sync run`.",
        ),
        (
            "A sensor or schedule fails",
            "It could not run; until it can, nothing starts this flow.",
            "Open its tick under Automation in Dagster and correct the error; use `erp-sync run` until then.",
        ),
    ),
    "stale": _kind(
        Who.OPS,
        Unit.NOTHING,
        (
            "Dados desatualizados",
            "O fluxo não termina com sucesso há mais tempo do que o combinado.",
            "Veja se o daemon e os agendamentos estão ligados, e a última execução do fluxo.",
        ),
        (
            "Data is stale",
            "The flow has not ended well for longer than agreed.",
            "Check that the daemon and the schedules are on, and the flow's last run.",
        ),
    ),
    "mass_change": _kind(
        Who.ERP,
        Unit.PRODUCTS,
        (
            "Mudança de estoque grande demais: nada foi gravado",
            "O ERP mostra outro saldo para uma parte do catálogo maior do que `stock.max_change_share` permite.",
            "Confira os saldos no Protheus. Se estiverem certos: `erp-sync run stock --accept`.",
        ),
        (
            "Too large a change of stock: nothing was written",
            "The ERP shows another stock for a larger share of the catalogue than `stock.max_change_share` allows.",
            "Check the stock in Protheus. If it is right: `erp-sync run stock --accept`.",
        ),
    ),
    "cancel_too_late": _kind(
        Who.ERP,
        Unit.ORDERS,
        (
            "Cancelamento da loja não feito no ERP",
            "A loja cancelou, e o pedido segue vivo no ERP: em geral já foi faturado, e o ERP não deixa mais cancelar.",
            "Veja `erp-sync order NUMERO`; se já há nota, cancele-a ou faça a devolução dentro do prazo.",
        ),
        (
            "A cancellation of the shop is not done in the ERP",
            "The shop cancelled, and the order lives on in the ERP: mostly because it is invoiced already.",
            "See `erp-sync order NUMBER`; with an invoice, cancel that or take the goods back before the deadline.",
        ),
    ),
    "duplicate": _kind(
        Who.ERP,
        Unit.ORDERS,
        (
            "Pedido em dobro no ERP",
            "Há mais de um pedido vivo no Protheus com o mesmo número da loja.",
            "Não fature: compare os dois com `erp-sync order NUMERO` e elimine o que sobra no Protheus.",
        ),
        (
            "An order is twice in the ERP",
            "Protheus has more than one live order with the same number of the shop.",
            "Do not invoice: compare both with `erp-sync order NUMBER`, and delete the extra one in Protheus.",
        ),
    ),
    "check/orders_in_erp": _kind(
        Who.INTEGRATION,
        Unit.ORDERS,
        (
            "Pedidos finalizados que não estão no ERP",
            "A loja tem pedidos finalizados que o ERP não tem.",
            "Veja o motivo de cada um com `erp-sync order NUMERO`; `erp-sync run orders --sweep` procura todos.",
        ),
        (
            "Finalized orders are not in the ERP",
            "The shop has finalized orders that the ERP does not have.",
            "See each one's reason with `erp-sync order NUMBER`; `erp-sync run orders --sweep` looks for all of them.",
        ),
    ),
    "check/totals_agree": _kind(
        Who.ERP,
        Unit.ORDERS,
        (
            "Total diferente entre loja e ERP",
            "O valor do pedido no Protheus não é o da loja: alguém alterou um dos dois depois do envio.",
            "Veja os dois valores na reconciliação e acerte no Protheus; o pedido nunca é reenviado sozinho.",
        ),
        (
            "Totals differ between shop and ERP",
            "The order's value in Protheus is not the shop's: somebody changed one of them after it was sent.",
            "See both figures in the reconciliation and correct Protheus; an order is never sent again by itself.",
        ),
    ),
    "check/nothing_waits": _kind(
        Who.OPS,
        Unit.ORDERS,
        (
            "Pedidos esperando há tempo demais",
            "Pedidos finalizados ainda não chegaram ao ERP: ERP fora do ar, lento, ou fila parada.",
            "Veja se o Protheus responde; quando voltar, a fila anda sozinha. Ninguém deve redigitar pedidos.",
        ),
        (
            "Orders have been waiting for too long",
            "Finalized orders are not in the ERP yet: it is away, slow, or the queue stands still.",
            "Check whether Protheus answers; the queue moves on by itself when it does. Nobody should retype orders.",
        ),
    ),
    "check/no_order_refused": _kind(
        Who.SHOP,
        Unit.ORDERS,
        (
            "Pedidos recusados",
            "O ERP recusou estes pedidos, ou falta neles um dado obrigatório; o motivo está em cada um.",
            "Corrija o dado indicado em `erp-sync order NUMERO`, e depois `erp-sync retry NUMERO`.",
        ),
        (
            "Orders are refused",
            "The ERP refused these orders, or they lack a value that it needs; each says why.",
            "Correct what `erp-sync order NUMBER` names, and then `erp-sync retry NUMBER`.",
        ),
    ),
    "check/nothing_in_doubt": _kind(
        Who.ERP,
        Unit.ORDERS,
        (
            "Pedidos em dúvida há tempo demais",
            "O envio ficou sem resposta e o ERP ainda não deixa conferir se o pedido entrou.",
            "Confirme que a consulta de pedidos do Protheus funciona. Não redigite: o pedido pode já estar lá.",
        ),
        (
            "Orders have been in doubt for too long",
            "A create got no answer, and the ERP does not yet let us look whether the order is there.",
            "Make sure that Protheus answers queries for orders. Do not retype them: they may be there already.",
        ),
    ),
    "check/statuses_fresh": _kind(
        Who.OPS,
        Unit.ORDERS,
        (
            "Status dos pedidos desatualizados",
            "Há pedidos cujo status o ERP não informa, ou a loja não recebe, há tempo demais.",
            "Veja a última execução de `statuses` e se o Protheus e o banco da loja respondem.",
        ),
        (
            "Statuses of orders are stale",
            "The ERP has not told the status of some orders, or the shop not got it, for too long.",
            "See the last run of `statuses`, and whether Protheus and the shop's database answer.",
        ),
    ),
    "check/stock_agrees": _kind(
        Who.ERP,
        Unit.PRODUCTS,
        (
            "Estoque da loja diferente do ERP",
            "O estoque publicado não é o que o ERP e os pedidos em trânsito permitem.",
            "Veja os produtos com `erp-sync run stock --dry-run`; se alguém edita o estoque na loja, pare de editar.",
        ),
        (
            "The shop's stock differs from the ERP's",
            "What is published is not what the ERP and the orders in flight allow.",
            "See the products with `erp-sync run stock --dry-run`; whoever edits stock in the shop should stop.",
        ),
    ),
    "check/stock_fresh": _kind(
        Who.OPS,
        Unit.PRODUCTS,
        (
            "Estoque desatualizado",
            "O estoque da loja não é comparado com o ERP há tempo demais: risco de vender o que não há.",
            "Veja a última execução de `stock` e se o Protheus responde.",
        ),
        (
            "Stock is stale",
            "The shop's stock has not been compared with the ERP for too long: it may sell what is not there.",
            "See the last run of `stock`, and whether Protheus answers.",
        ),
    ),
    "check/no_negative_stock": _kind(
        Who.ERP,
        Unit.PRODUCTS,
        (
            "Estoque negativo",
            "A loja mostra menos que zero destes produtos: vendeu-se mais do que havia.",
            "Acerte o saldo no Protheus, ou decida com a loja quais pedidos não serão atendidos.",
        ),
        (
            "Negative stock",
            "The shop shows less than none of these products: more was sold than there was.",
            "Correct the stock in Protheus, or decide with the shop which orders are not fulfilled.",
        ),
    ),
    "check/everything_mapped": _kind(
        Who.INTEGRATION,
        Unit.VALUES,
        (
            "Código da loja sem correspondência no ERP",
            "A loja usa um produto, pagamento ou transportadora que o ERP ou a configuração não conhece.",
            "Cadastre o código no Protheus, ou escreva-o em [orders] payments ou carriers, antes que um pedido falhe.",
        ),
        (
            "A code of the shop has no match in the ERP",
            "The shop uses a product, payment or carrier that the ERP or the settings do not know.",
            "Add it in Protheus, or write it into [orders] payments or carriers, before an order fails.",
        ),
    ),
    "check/installation_is_sound": _kind(
        Who.OPS,
        Unit.VALUES,
        (
            "A instalação tem um problema",
            "O exame diário achou algo que falta ou está errado: configuração, acesso, permissão, código ou índice.",
            "Rode `erp-sync doctor`: cada linha diz o que fazer. Depois execute o job `doctor` no Dagster de novo.",
        ),
        (
            "Something is wrong with the installation",
            "The daily look found what is missing or wrong: a setting, an access, a right, a code or an index.",
            "Run `erp-sync doctor`: each line says what to do. Then run the job `doctor` in Dagster again.",
        ),
    ),
    "check/erp_fields": _kind(
        Who.ERP,
        Unit.VALUES,
        (
            "Resposta do ERP mudou",
            "Faltam campos de que precisamos nas respostas do Protheus, ou eles mudaram de tipo.",
            "Pergunte o que mudou no Protheus (atualização, dicionário, permissões) e desfaça ou avise a integração.",
        ),
        (
            "The ERP's answers have changed",
            "Fields that we need are missing in the answers of Protheus, or have another type.",
            "Ask what changed in Protheus (update, dictionary, rights); undo it, or tell the integration's team.",
        ),
    ),
    "check/every_order_of_the_day_agrees": _kind(
        Who.INTEGRATION,
        Unit.ORDERS,
        (
            "Loja e ERP não conferem",
            "A reconciliação achou pedidos que não conferem entre loja e ERP nos dias que o detalhe diz.",
            'A tabela de health/reconciliation diz quem decide em cada um; o que começa com "nada" se acerta só.',
        ),
        (
            "Shop and ERP do not agree",
            "The reconciliation found orders on which shop and ERP do not agree, on the days that the detail names.",
            'The table of health/reconciliation says who decides on each; what begins with "nothing" repairs itself.',
        ),
    ),
    "check_failed": _kind(
        Who.INTEGRATION,
        Unit.VALUES,
        (
            "Verificação falhou",
            "Uma verificação do Dagster encontrou um problema.",
            "Abra a verificação no Dagster: a descrição e a tabela dizem o que falta e o que fazer.",
        ),
        (
            "A check failed",
            "One of Dagster's checks found a problem.",
            "Open the check in Dagster: its description and table say what is wrong and what to do.",
        ),
    ),
    "other": _kind(
        Who.INTEGRATION,
        Unit.VALUES,
        (
            "Problema na integração",
            "A integração encontrou um problema que este texto não conhece.",
            "Veja o detalhe acima e a última execução no Dagster.",
        ),
        (
            "A problem in the integration",
            "The integration found a problem that this text does not know.",
            "See the detail above, and the last run in Dagster.",
        ),
    ),
}
KINDS["check/no_order_twice"] = KINDS["duplicate"]
KINDS["check/orders_are_as_sent"] = _kind(
    Who.ERP,
    Unit.ORDERS,
    (
        "Pedido diferente no ERP",
        "O ERP tem o pedido apagado, alterado ou com outro identificador, cliente ou filial.",
        "`erp-sync order NÚMERO` mostra a diferença. Corrija ou restaure no ERP; ele nunca é criado de novo.",
    ),
    (
        "An order is different in the ERP",
        "The ERP has the order deleted, changed, or under another id, customer or branch.",
        "`erp-sync order NUMBER` shows what differs. Correct or restore it in the ERP; it is never created again.",
    ),
)
KINDS["check/shop_knows_every_status"] = _kind(
    Who.OPS,
    Unit.ORDERS,
    (
        "A loja não recebeu o status",
        "O pedido mudou no ERP e a loja ainda não foi avisada.",
        "Veja as execuções de shop/order_status: a falha de lá é a causa.",
    ),
    (
        "The shop was not told the status",
        "The order changed in the ERP and the shop does not know it yet.",
        "Look at the runs of shop/order_status: what failed there is the cause.",
    ),
)
KINDS["check/no_status_needs_a_person"] = _kind(
    Who.SHOP,
    Unit.ORDERS,
    (
        "Status à espera de uma pessoa",
        "Loja e ERP se contradizem, e o pedido fica como está até alguém decidir.",
        "`erp-sync order NÚMERO` diz o que corrigir na loja, no ERP ou no perfil.",
    ),
    (
        "A status waits for a person",
        "Shop and ERP contradict each other, and the order stays as it is until somebody decides.",
        "`erp-sync order NUMBER` says what to correct in the shop, the ERP or the profile.",
    ),
)
