# Winnow in a container.
#
#   docker build -t winnow .
#   docker run --rm -v winnow-data:/data winnow keys create NAME --scope search,ingest
#   docker run -p 127.0.0.1:8000:8000 -v winnow-data:/data winnow
#
# It does not start without a key, since it can't know who reaches it; where only you can, `-e WINNOW_OPEN=true` instead.
#
# Which torch goes in. By default the one that pip's own index has; on amd64 that is a build with CUDA, which runs on a
# CPU as well but weighs gigabytes. The small CPU build comes from another index, which you name:
#
#   docker build -t winnow --build-arg TORCH_INDEX="$TORCH_INDEX" .
#
# For a CPU, TORCH_INDEX is the address of the CPU wheel index that pytorch.org documents ("Get started": Linux, pip, CPU).
# For a GPU, leave it out, or name the wheel index of the CUDA release that suits your driver; then run with
# `--gpus all` (the host needs NVIDIA's container toolkit). The image holds no CUDA of its own: the wheels bring it.
#
# A read-only root file system is fine: `docker run --read-only --tmpfs /tmp …`. Winnow writes to /data (documents,
# indexes, models fetched from a hub, and models converted for OpenVINO) and to /tmp (files that are sent, results of a
# long ingest). A folder of the host that is mounted on /data must belong to user 10001.

ARG PYTHON=3.11.15-slim-bookworm


FROM python:${PYTHON} AS dependencies

# The compiler is for hnswlib alone, which has no wheels; it stays behind in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY pyproject.toml constraints.txt ./

# Wheels of all dependencies, before the code, so that a change to the code leaves this layer alone.
# hnswlib compiles for the very CPU it is built on unless told otherwise, and then dies with SIGILL on an older one;
# x86-64-v3 (AVX2) is nearly every server CPU since 2013, and arm64 needs no flag.
ARG TORCH_INDEX=""
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*project["dependencies"], *(each for extra in ("files", "otel") \
                for each in project["optional-dependencies"][extra]), sep="\n")' > requirements.txt \
    && mkdir /wheels \
    && if [ -n "${TORCH_INDEX}" ]; then \
           pip wheel --no-deps --index-url "${TORCH_INDEX}" --constraint constraints.txt --wheel-dir /wheels torch; \
       fi \
    && export HNSWLIB_NO_NATIVE=1 \
    && if [ "$(uname -m)" = x86_64 ]; then export CXXFLAGS=-march=x86-64-v3; fi \
    && pip wheel --find-links /wheels --constraint constraints.txt --wheel-dir /wheels --requirement requirements.txt

RUN python -m venv --without-pip /opt/winnow \
    && pip --python /opt/winnow/bin/python install --no-index --find-links /wheels --constraint constraints.txt \
           --requirement requirements.txt


FROM dependencies AS service

COPY README.md ./
COPY app app
COPY models models
RUN pip --python /opt/winnow/bin/python install --no-deps --prefix /service .


FROM python:${PYTHON}

LABEL org.opencontainers.image.title="Winnow" \
      org.opencontainers.image.description="Two-stage retrieval: vectors and words propose, tokens and a cross-encoder decide."

RUN groupadd --gid 10001 winnow \
    && useradd --uid 10001 --gid winnow --home-dir /data --no-create-home --shell /usr/sbin/nologin winnow \
    && install --directory --owner winnow --group winnow --mode 0750 /data

# Two layers: the large one changes with the dependencies, the small one with the code.
COPY --from=dependencies /opt/winnow /opt/winnow
COPY --from=service /service /opt/winnow

# The NVIDIA variable asks the container toolkit for the compute side of a GPU and means nothing without one.
ENV PATH=/opt/winnow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    WINNOW_HOST=0.0.0.0 \
    WINNOW_PORT=8000 \
    WINNOW_DATA_DIR=/data \
    HF_HOME=/data/hub \
    WINNOW_CONVERSIONS=/data/conversions \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# An image that can't start is not built.
RUN python -c 'import app.main, hnswlib, models.openvino_runtime, torch'

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000

# Not ready is not dead: a restart would not help a service that is opening its collections. An orchestrator that
# restarts what is unhealthy should ask /healthz instead.
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"WINNOW_PORT\"]}/readyz', timeout=4)"]

# Exec form: winnow is process 1, gets SIGTERM itself, and finishes running requests within WINNOW_SHUTDOWN_TIMEOUT
# (20 s), and saves its indexes. Docker kills after 10: stop it with `docker stop --time 60`.
ENTRYPOINT ["winnow"]
CMD ["serve"]
