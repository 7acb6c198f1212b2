# The image of csi-fluid, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 -t NAME .
# `make image` makes the same without Docker; tests/unit/test_image.py holds the two together.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS libraries
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY csi_fluid csi_fluid
COPY recover recover
RUN pip install --no-cache-dir --no-compile --only-binary=grpcio,protobuf,cryptography \
      --target=/libraries '.[webhook]' \
 && find /libraries -depth \( -name tests -o -name test -o -name '*.pyi' -o -name bin \) -exec rm -rf {} + \
 && python3 -m compileall -q -s /libraries -p /usr/local/lib/python3.11/dist-packages \
      --invalidation-mode=unchecked-hash /libraries

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstdc++6 procps python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=libraries /libraries /usr/local/lib/python3.11/dist-packages
COPY --chmod=755 manifests/image/entrypoint.sh /usr/local/bin/entrypoint.sh
COPY --chmod=755 manifests/image/csi-fluid /usr/local/bin/csi-fluid
ENV PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=1
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
