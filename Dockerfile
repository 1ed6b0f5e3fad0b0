FROM python:3.12-slim-bookworm
RUN useradd --system --create-home --home-dir /var/cache/dcmpress dcmpress \
    && install -d -o dcmpress /var/lib/dcmpress
WORKDIR /opt/dcmpress
COPY pyproject.toml README.md LICENSE ./
COPY scp scp
COPY codecs codecs
COPY storage storage
COPY src src
RUN pip install --no-cache-dir .
USER dcmpress
ENV XDG_CACHE_HOME=/var/cache/dcmpress
EXPOSE 11112
ENTRYPOINT ["dcmpress"]
CMD ["serve"]
