# kube-proxy writes its rules with the iptables programs. Not with nft: Debian 12's nft lists the keys of its maps in a
# form that kube-proxy does not take for its own, so that it drops every Service after a restart or a failed sync.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends iptables conntrack \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY {tool} /usr/local/bin/kube-proxy
ENTRYPOINT ["/usr/local/bin/kube-proxy"]
