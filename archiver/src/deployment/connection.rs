//! Why no server can be used: what the driver's long text about its topology comes down to, and what to do about it.

/// `127.0.0.1:27017: Connection refused; …`, out of the driver's text; all of the text where it has another form.
pub(super) fn reasons(text: &str) -> String {
    let of_server = |part: &str| {
        let (address, rest) = part.split_once(',')?;
        let reason = rest.split_once("Error: Kind: ")?.1;
        let reason = reason.split(", labels: ").next()?.trim_start_matches("I/O error: ");
        // rustls explains itself on a page of its own.
        Some(format!("{address}: {}", reason.split(": https://").next()?))
    };
    let found: Vec<String> = text.split("{ Address: ").skip(1).filter_map(of_server).collect();
    match found.is_empty() {
        true => text.to_owned(),
        false => format!("no server can be used: {}", found.join("; ")),
    }
}

/// What to do about it.
pub(super) fn hint(text: &str) -> &'static str {
    const HINTS: [(&str, &str); 6] = [
        (
            "not valid for name",
            "the server's certificate is made out to another name; use the host name or address that it holds",
        ),
        (
            "invalid peer certificate: Expired",
            "the server's certificate has expired; its administrator must renew it",
        ),
        (
            "invalid peer certificate",
            "the server's certificate is not of the authority that tlsCAFile names; without tlsCAFile only public ones count",
        ),
        (
            "close_notify",
            "the server does not accept the client's certificate, or wants one: that in tlsCertificateKeyFile must not have \
             expired, and be of an authority that the server knows",
        ),
        (
            "InvalidContentType",
            "the server does not speak TLS; remove tls=true from the MongoDB URI, or switch TLS on there",
        ),
        (
            "unexpected end of file",
            "the server closed the connection; it may ask for TLS: add tls=true to the MongoDB URI",
        ),
    ];
    let known = HINTS.iter().find(|(sign, _)| text.contains(sign));
    known.map_or(
        "check that the server runs and that host, port and replicaSet in the URI are right",
        |(_, hint)| *hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ \
        { Address: a:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {\"X\"}, source: None }, \
        { Address: b:2, Type: Unknown, Error: Kind: I/O error: peer closed connection without sending TLS close_notify: \
        https://docs.rs/rustls, labels: {\"X\"}, source: None } ] }";

    #[test]
    fn a_topology_comes_down_to_one_reason_for_each_server() {
        let short = "no server can be used: a:1: Connection refused (os error 111); \
                     b:2: peer closed connection without sending TLS close_notify";
        assert_eq!(reasons(TEXT), short);
        assert!(hint(TEXT).contains("tlsCertificateKeyFile"));
        let other = "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary }";
        assert_eq!(reasons(other), other);
        assert!(hint(other).contains("replicaSet"));
    }
}
