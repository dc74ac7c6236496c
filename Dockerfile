FROM python:3.13-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1


FROM base AS build
WORKDIR /src
RUN python -m venv /opt/venv
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement=requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY exporter ./exporter
# setuptools and pip are for the build alone: what is not in the image needs no security updates.
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && pip uninstall --yes --quiet setuptools pip


FROM base
LABEL org.opencontainers.image.title="smartstream-exporter" \
      org.opencontainers.image.description="Prometheus exporter for the Analytics API of the SmartSTREAM video platform" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
# A new named volume takes the owner from here. The user is a number, so that Kubernetes can see it is not root.
RUN install --directory --owner=10077 --group=10077 /data
USER 10077:10077
WORKDIR /data
VOLUME /data
EXPOSE 10077
STOPSIGNAL SIGTERM
# No proxy: the address is in the container, and HTTP_PROXY may be set for the API.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:10077/-/healthy', timeout=4)"]
ENTRYPOINT ["smartstream-exporter"]
CMD ["--config.file=/etc/smartstream/config.yaml", "--storage.path=/data/state.db"]
