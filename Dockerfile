# docker build -t formal . && docker run --rm -v "$PWD:/kernel" formal prove --kernel .
FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
COPY . /tmp/source
RUN python3 -m venv /opt/formal \
    && /opt/formal/bin/pip install --no-cache-dir /tmp/source \
    && rm -rf /tmp/source
ENV PATH=/opt/formal/bin:$PATH
WORKDIR /kernel
ENTRYPOINT ["formal"]
CMD ["prove"]
