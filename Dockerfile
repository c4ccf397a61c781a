# One image for the web server, the daemon, the code server and the runs; the arguments say which:
#   dagster code-server start -h 0.0.0.0 -p 4000 -m erp_sync.definitions
#   dagster-daemon run -w workspace.yaml
#   dagster-webserver -h 127.0.0.1 -p 3000 -w workspace.yaml    (it has no login: keep it behind a proxy that has one)
# The root may be read-only: only /tmp, and DAGSTER_HOME as long as Dagster's storage is SQLite, are written to.

FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
RUN uv venv /opt/erp_sync
COPY pyproject.toml README.md requirements.lock ./
COPY erp_sync erp_sync
# The lock is a constraint: nothing but what the image needs is installed, in the lock's versions, and uv checks each
# archive against the lock's hashes.
RUN uv pip install --python /opt/erp_sync/bin/python --no-cache --compile-bytecode \
    --constraint requirements.lock '.[aws,postgres]'

FROM python:3.11-slim-bookworm
# Two arenas: with one per thread a process that works through thousands of orders grows by what lies idle in each.
ENV PATH=/opt/erp_sync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    MPLCONFIGDIR=/tmp/matplotlib \
    DAGSTER_HOME=/opt/dagster/home
RUN groupadd --gid 10001 erp_sync \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin erp_sync \
    && install -d -o 10001 -g 10001 /opt/dagster/home
COPY --from=build /opt/erp_sync /opt/erp_sync
COPY --chown=10001:10001 dagster.yaml workspace.yaml /opt/dagster/home/
WORKDIR /opt/dagster/home
USER 10001:10001
# Writable for everybody as in the image, also where the platform mounts an empty folder over it.
VOLUME ["/tmp"]
# Asks what this container was started as, and through no proxy; a run and a command are healthy as long as they live.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 CMD ["sh", "-c", "\
    case $(tr '\\0' ' ' < /proc/1/cmdline) in \
    *dagster-webserver*) python -c 'from urllib.request import *; build_opener(ProxyHandler({})).open(\"http://127.0.0.1:3000/server_info\")' ;; \
    *dagster-daemon*) dagster-daemon liveness-check ;; \
    *code-server*) dagster api grpc-health-check -p 4000 ;; \
    esac"]
CMD ["erp-sync", "--help"]
