//! Certificates made on the spot: an authority, and what it signs for servers and clients.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// A certificate authority with a folder for its files, which go with it.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// For how long a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For longer than any test runs.
    Present,
    /// It ended long ago.
    Expired,
}

impl Authority {
    /// A new authority that nobody knows yet.
    pub fn new() -> Authority {
        let folder = TempDir::with_prefix("archiver-certificates-").expect("a temporary folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = name("authority", "Archiver tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("signs itself");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file can be written");
        Authority { issuer: Issuer::new(params, key), folder }
    }

    /// The authority's own certificate: what `tlsCAFile` wants.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's certificate and key in one file, for 127.0.0.1.
    pub fn server(&self) -> PathBuf {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        params.distinguished_name = name("mongod", "Servers");
        // A member of a replica set is also a client of the others.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, "server", Validity::Present)
    }

    /// A client's certificate and key in one file: what `tlsCertificateKeyFile` wants. Its user is [`subject`].
    pub fn client(&self, common_name: &str, validity: Validity) -> PathBuf {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = name(common_name, "Clients");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, common_name, validity)
    }

    fn sign(&self, mut params: CertificateParams, file: &str, validity: Validity) -> PathBuf {
        (params.not_before, params.not_after) = match validity {
            Validity::Present => (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1)),
            Validity::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1)),
        };
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("can be signed");
        let file = self.path().join(format!("{file}.pem"));
        std::fs::write(&file, certificate.pem() + &key.serialize_pem()).expect("a file can be written");
        file
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

/// The name under which MongoDB knows the client of this common name, in `$external`.
pub fn subject(common_name: &str) -> String {
    format!("CN={common_name},O=Clients")
}

fn name(common_name: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // MongoDB writes the parts in the opposite order.
    name.push(DnType::OrganizationName, organization);
    name.push(DnType::CommonName, common_name);
    name
}
