FROM python:3.12-slim-bookworm
# A number that never changes: the archive's files belong to it.
RUN useradd --uid 11112 --user-group --create-home --home-dir /var/cache/dcmpress dcmpress \
    && install -d -o dcmpress -g dcmpress -m 750 /var/lib/dcmpress
WORKDIR /opt/dcmpress
COPY pyproject.toml README.md LICENSE ./
COPY scp scp
COPY codecs codecs
COPY storage storage
COPY src src
RUN pip install --no-cache-dir '.[postgresql]'
USER 11112:11112
# The container's own network: who may call is for dicom.allow to say, or the node does not start.
ENV XDG_CACHE_HOME=/var/cache/dcmpress \
    DCMPRESS_DICOM__BIND=0.0.0.0 \
    DCMPRESS_STORAGE__ROOT=/var/lib/dcmpress
# The archive, and the compiled kernels.
VOLUME ["/var/lib/dcmpress", "/var/cache/dcmpress"]
EXPOSE 11112
ENTRYPOINT ["dcmpress"]
CMD ["serve"]
