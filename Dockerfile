# docker build --target cpu -t aaserve:cpu .
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml constraints.txt ./
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[cpu]'

FROM python:3.11-slim AS cpu
LABEL org.opencontainers.image.title="aaserve" \
      org.opencontainers.image.description="Attention-augmented image classification over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /venv /venv
WORKDIR /app
COPY bundle bundle
COPY service service
COPY model_repository model_repository
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 AASERVE_HOST=0.0.0.0 AASERVE_DRAIN_GRACE_MS=5000
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --start-period=30s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('AASERVE_PORT', '8080') + '/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
