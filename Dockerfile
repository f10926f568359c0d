# The ext_proc server alone (`extproc serve`); Envoy and Redis are containers of their own, see docker-compose.yml.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY extproc extproc
RUN python -m venv /opt/extproc && /opt/extproc/bin/pip install --no-cache-dir .

FROM python:3.12-slim
# 101 is the user of Envoy's image: one user on both sides of the Unix sockets in /run/extproc.
RUN groupadd --gid 101 extproc \
    && useradd --uid 101 --gid 101 --no-create-home --shell /usr/sbin/nologin extproc \
    && install -d -o extproc -g extproc /run/extproc /var/lib/extproc
COPY --from=build /opt/extproc /opt/extproc
ENV PATH=/opt/extproc/bin:$PATH PYTHONUNBUFFERED=1
USER 101:101
# What the store did not take yet waits in .extproc/spool here: keep it over a container's life.
WORKDIR /var/lib/extproc
VOLUME /run/extproc /var/lib/extproc
EXPOSE 10001
ENTRYPOINT ["extproc"]
CMD ["serve", "--config", "/etc/extproc/gateway.yaml"]
