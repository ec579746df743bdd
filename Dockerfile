# docker build --target cpu -t aaserve:cpu .     `make image` adds version and commit as labels
# docker build --target openvino -t aaserve:openvino .     CPUs with OpenVINO
# docker build --target gpu -t aaserve:gpu .     NVIDIA GPUs: CUDA and cuDNN come as wheels, the driver (580 or newer) is the host's
# What serving needs of aaserve, as a wheel: the links in aaserve/ to folders that are not copied lead nowhere, and setuptools
# leaves them out.
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /build
COPY pyproject.toml LICENSE NOTICE ./
COPY aaserve aaserve
COPY bundle bundle
COPY service service
# pip compiles what it installs: on a read-only file system Python could not keep that.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.11-slim-bookworm AS install
WORKDIR /build
RUN python -m venv --without-pip /venv
COPY pyproject.toml constraints.txt constraints-gpu.txt ./
COPY aaserve aaserve
COPY service/version.py service/

# Only the dependencies, so that their layer changes only with them; the wheel is put beside them below.
# Nobody needs the packages' own tests here, nor ONNX Runtime's library for C programs: Python's module has its own copy.
FROM install AS install-cpu
RUN pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt '.[cpu,otel]' \
    && pip --python /venv/bin/python uninstall --yes aaserve \
    && find /venv -type d -name tests -prune -exec rm -r {} + \
    && rm /venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so*

FROM install AS install-gpu
RUN pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt --constraint constraints-gpu.txt '.[gpu,otel]' \
    && pip --python /venv/bin/python uninstall --yes aaserve \
    && find /venv -type d -name tests -prune -exec rm -r {} +

FROM python:3.11-slim-bookworm AS runtime
COPY --from=wheel /venv /venv
WORKDIR /app
COPY LICENSE NOTICE /app/
# What is mounted here takes the place of the models that ship.
COPY model_repository /mnt/models
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    AASERVE_HOST=0.0.0.0 AASERVE_PORT=8080 AASERVE_REPOSITORY=/mnt/models AASERVE_DRAIN_GRACE_MS=5000
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["aaserve", "healthcheck"]
ENTRYPOINT ["aaserve", "serve"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aaserve" \
      org.opencontainers.image.description="Attention-augmented image classification over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM runtime AS gpu
COPY --from=install-gpu /venv /venv
# Without a GPU this image does not start; a node that should have one and has not is not to serve from its CPU.
# Batches of 64: AA-ResNet-50 in fp16 on an H200 does 1,532 images a second in batches of 8, 5,545 of 64, 6,720 of 256
# (benchmarks/results/2026-11-28-gpu-throughput.json).
ENV AASERVE_PROVIDER=cuda AASERVE_MAX_BATCH_SIZE=64 AASERVE_MAX_QUEUE_SIZE=1024 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Without openvino-telemetry, OpenVINO cannot report (bundle/telemetry.py keeps it from that in any case). Plug-ins for
# other devices and readers of other formats are 70 MB.
FROM install-cpu AS install-openvino
RUN pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt '.[cpu,openvino,otel]' \
    && pip --python /venv/bin/python uninstall --yes aaserve openvino-telemetry \
    && cd /venv/lib/python3*/site-packages/openvino/libs \
    && rm cache.json libopenvino_*gpu* libopenvino_*npu* libopenvino_gguf* libopenvino_jax* libopenvino_paddle* \
        libopenvino_pytorch* libopenvino_tensorflow*

FROM runtime AS openvino
COPY --from=install-openvino /venv /venv
ENV AASERVE_PROVIDER=openvino

FROM runtime AS cpu
COPY --from=install-cpu /venv /venv
