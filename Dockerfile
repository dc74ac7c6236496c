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
# The version for the label, from exporter/__init__.py: `docker build --build-arg=VERSION="$(scripts/release.py version)" .`
ARG VERSION=unknown
LABEL org.opencontainers.image.title="smartstream-exporter" \
      org.opencontainers.image.description="Prometheus exporter for the Analytics API of the SmartSTREAM video platform" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
# A new named volume takes the owner and the mode from here. The user is a number, so that Kubernetes can see it is not
# root. OpenShift runs it as any user of group 0.
RUN install --directory --owner=10077 --group=0 --mode=0770 /data
USER 10077:10077
WORKDIR /data
VOLUME /data
EXPOSE 10077
STOPSIGNAL SIGTERM
# Also with TLS, whose own certificate is for other names. With a password 401 is the answer of a process that serves.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python", "-c", \
    "import ssl; from http.client import *; at = ('127.0.0.1', 10077); \
    get = lambda to: to.request('GET', '/-/healthy') or to.getresponse().status; \
    status = get(HTTPConnection(*at, timeout=4)); tls = ssl._create_unverified_context(); \
    status = get(HTTPSConnection(*at, timeout=4, context=tls)) if status == 400 else status; \
    raise SystemExit(status not in (200, 401))"]
ENTRYPOINT ["smartstream-exporter"]
CMD ["--config.file=/etc/smartstream/config.yaml", "--storage.path=/data/state.db"]
