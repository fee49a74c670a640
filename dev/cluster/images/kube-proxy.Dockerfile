# kube-proxy writes its rules with the nft program.
# Debian 12's nft lists the keys of its maps in a form that kube-proxy does not take for its own, so that a restarted
# kube-proxy drops every Service; the wrapper lets it start from nothing.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends nftables \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && printf '#!/bin/sh\nnft delete table ip kube-proxy 2>/dev/null\nexec kube-proxy-program "$@"\n' \
        > /usr/local/bin/kube-proxy \
    && chmod 755 /usr/local/bin/kube-proxy
COPY {tool} /usr/local/bin/kube-proxy-program
ENTRYPOINT ["/usr/local/bin/kube-proxy"]
