//! What a store does with what is deleted: keeps it as an older version, refuses to delete it, or deletes it. object_store has
//! no word for it, so the settings are asked for with its credentials, in one small request each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join;
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::aws::AmazonS3;
use object_store::azure::{AzureAuthorizer, MicrosoftAzure};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, HttpResponse, ReqwestConnector};
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer as _};
use serde::Serialize;

use super::Archive;
use crate::error::{Error, Result};

/// How long a signed request may take to arrive.
const SIGNED_FOR: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// As the configuration counts years.
const DAYS_OF_A_YEAR: u32 = 366;

/// Whom to ask for the settings.
#[derive(Debug, Clone)]
pub(super) enum Settings {
    /// A folder has none.
    Folder,
    /// S3, or a store that speaks its protocol.
    S3(Arc<AmazonS3>, HttpClient),
    /// Azure Blob.
    Azure { store: Arc<MicrosoftAzure>, http: HttpClient, account: String, container: String },
    /// A store whose settings can't be asked for.
    Unseen,
}

/// How objects are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// Nobody can shorten it or delete before.
    Compliance,
    /// Those with a special privilege can.
    Governance,
}

/// What is known of a store's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// There are none: it is a folder, or a store without versions and locks.
    None,
    /// An S3 bucket.
    S3 {
        /// Whether it keeps older versions.
        versions: bool,
        /// Whether Object Lock is on.
        object_lock: bool,
        /// The default retention: what a new object gets by itself, and for how long.
        default: Option<(LockMode, Duration)>,
    },
    /// An Azure container.
    Azure {
        /// Whether there is an immutability policy, or immutability with versions. For how long can't be seen.
        immutable: bool,
        /// Whether the container is under a legal hold of Azure's.
        legal_hold: bool,
    },
    /// They can't be asked for in a store of this kind.
    Unseen,
}

/// Who can delete what has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    /// Archiver: a deletion deletes.
    Archiver,
    /// Only the store, by its lifecycle rules: a deletion is refused, or leaves an older version behind.
    Store,
}

impl Lock {
    /// Who can delete here.
    pub fn deletes(&self) -> Deletes {
        match self {
            Lock::None
            | Lock::S3 { versions: false, object_lock: false, .. }
            | Lock::Azure { immutable: false, legal_hold: false } => Deletes::Archiver,
            _ => Deletes::Store,
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: bool| if on { "on" } else { "off" };
        match self {
            Lock::None => f.write_str("neither versions nor locks"),
            Lock::S3 { versions, object_lock, default } => {
                write!(f, "versioning {}, Object Lock {}", on(*versions), on(*object_lock))?;
                match default {
                    Some((mode, time)) => {
                        let mode = if *mode == LockMode::Compliance { "compliance" } else { "governance" };
                        write!(
                            f,
                            ", default retention {} in {mode} mode",
                            crate::config::units::show_duration(*time)
                        )
                    }
                    None if *object_lock => f.write_str(", no default retention"),
                    None => Ok(()),
                }
            }
            Lock::Azure { immutable, legal_hold } => {
                write!(f, "immutability policy {}, legal hold {}", on(*immutable), on(*legal_hold))
            }
            Lock::Unseen => f.write_str("settings that can't be seen"),
        }
    }
}

impl Archive {
    /// What the store says about its locks. Fails as invalid where it does not let this account know.
    pub async fn lock(&self) -> Result<Lock> {
        match &self.settings {
            Settings::Folder => Ok(Lock::None),
            Settings::Unseen => Ok(Lock::Unseen),
            Settings::S3(store, http) => s3(store, http).await,
            Settings::Azure { store, http, account, container } => {
                azure(store, http, account, container).await
            }
        }
    }
}

async fn s3(store: &AmazonS3, http: &HttpClient) -> Result<Lock> {
    let (versioning, lock) =
        try_join(setting(store, http, "versioning"), setting(store, http, "object-lock")).await?;
    // A store that knows no versions has no locks.
    let Some(versioning) = versioning else { return Ok(Lock::None) };
    // Suspended versioning keeps the versions there are, and puts a marker over them.
    let versions = matches!(tag(&versioning, "Status"), Some("Enabled" | "Suspended"));
    let lock = lock.unwrap_or_default();
    let days = |name| tag(&lock, name).and_then(|text| text.trim().parse::<u32>().ok());
    let time = days("Days").or(days("Years").map(|years| years.saturating_mul(DAYS_OF_A_YEAR)));
    let mode = match tag(&lock, "Mode") {
        Some("COMPLIANCE") => Some(LockMode::Compliance),
        Some("GOVERNANCE") => Some(LockMode::Governance),
        _ => None,
    };
    let object_lock = tag(&lock, "ObjectLockEnabled") == Some("Enabled");
    Ok(Lock::S3 { versions, object_lock, default: mode.zip(time.map(|days| DAY * days)) })
}

/// One setting of a bucket as XML; empty where it was never set, `None` where the store does not know such a setting.
async fn setting(store: &AmazonS3, http: &HttpClient, name: &str) -> Result<Option<String>> {
    let unseen = || unseen(&format!("the bucket's {name} setting"));
    let query = SignedUrlOptions::new().with_query([(name, "")]);
    let url = store.signed_url_opts(Method::GET, &Path::default(), SIGNED_FOR, &query).await;
    let url = url.map_err(|e| unseen().because(e))?;
    let mut request = HttpRequest::new(Bytes::new().into());
    *request.uri_mut() = url.as_str().parse().map_err(|e| unseen().because(e))?;
    let (status, body) = answer(http, request, unseen).await?;
    match (status, tag(&body, "Code")) {
        (200, _) => Ok(Some(body)),
        (404, Some("ObjectLockConfigurationNotFoundError")) => Ok(Some(String::new())),
        (405 | 501, _) => Ok(None),
        (_, code) => Err(refused(unseen(), status, code)),
    }
}

async fn azure(store: &MicrosoftAzure, http: &HttpClient, account: &str, container: &str) -> Result<Lock> {
    let unseen = || unseen("the container's properties");
    let credential = store.credentials().get_credential().await.map_err(|e| unseen().because(e))?;
    let mut request = HttpRequest::new(Bytes::new().into());
    *request.uri_mut() = format!("{container}?restype=container").parse().map_err(|e| unseen().because(e))?;
    let signed = AzureAuthorizer::new(&credential, account).try_authorize(&mut request);
    signed.map_err(|e| unseen().because(e))?;
    let response = http.execute(request).await.map_err(|e| unavailable(unseen()).because(e))?;
    if !response.status().is_success() {
        return Err(refused(unseen(), response.status().as_u16(), header(&response, "x-ms-error-code")));
    }
    let is = |name: &str| header(&response, name) == Some("true");
    let versions = is("x-ms-immutable-storage-with-versioning-enabled");
    Ok(Lock::Azure {
        immutable: is("x-ms-has-immutability-policy") || versions,
        legal_hold: is("x-ms-has-legal-hold"),
    })
}

fn header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

async fn answer(
    http: &HttpClient,
    request: HttpRequest,
    unseen: impl Fn() -> Error,
) -> Result<(u16, String)> {
    let response = http.execute(request).await.map_err(|e| unavailable(unseen()).because(e))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|e| unavailable(unseen()).because(e))?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

fn unseen(what: &str) -> Error {
    Error::invalid(format!("{what} can't be read"))
}

fn unavailable(error: Error) -> Error {
    Error::unavailable(error.to_string()).hint("check that the store is reachable")
}

fn refused(error: Error, status: u16, code: Option<&str>) -> Error {
    error.because(format!("status={status} code={}", code.unwrap_or("-"))).hint(
        "allow it: s3:GetBucketVersioning and s3:GetBucketObjectLockConfiguration; on Azure, to read the container's properties",
    )
}

/// The text of an XML element, the first of its name.
fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
}

/// An HTTP client like the store's own: with the same options, proxies and certificates.
pub(super) fn client(options: &ClientOptions) -> object_store::Result<HttpClient> {
    ReqwestConnector::default().connect(options)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_trait::async_trait;
    use object_store::aws::AmazonS3Builder;
    use object_store::client::{HttpError, HttpService};

    use super::*;
    use crate::error::Kind;

    /// Answers each setting as told.
    #[derive(Debug)]
    struct Answers {
        versioning: (u16, &'static str),
        object_lock: (u16, &'static str),
    }

    #[async_trait]
    impl HttpService for Answers {
        async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
            let query = request.uri().query().unwrap();
            assert!(query.contains("X-Amz-Signature="), "{query}");
            let (status, body) = match query.contains("versioning=") {
                true => self.versioning,
                false => self.object_lock,
            };
            let mut response = HttpResponse::new(Bytes::from_static(body.as_bytes()).into());
            *response.status_mut() = status.try_into().unwrap();
            Ok(response)
        }
    }

    async fn asked(versioning: (u16, &'static str), object_lock: (u16, &'static str)) -> Result<Lock> {
        super::super::install_tls();
        let builder = AmazonS3Builder::new().with_bucket_name("b").with_region("us-east-1");
        let store = builder.with_access_key_id("k").with_secret_access_key("s").build().unwrap();
        s3(&store, &HttpClient::new(Answers { versioning, object_lock })).await
    }

    const NEVER: (u16, &str) = (200, "<VersioningConfiguration xmlns=\"x\"/>");
    const SUSPENDED: (u16, &str) =
        (200, "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>");
    const NO_LOCK: (u16, &str) = (404, "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>");
    const DENIED: (u16, &str) = (403, "<Error><Code>AccessDenied</Code></Error>");
    const UNKNOWN: (u16, &str) = (501, "<Error><Code>NotImplemented</Code></Error>");

    #[tokio::test]
    async fn the_settings_of_a_bucket_are_read_as_they_are() {
        let s3 = |versions, object_lock, default| Lock::S3 { versions, object_lock, default };
        assert_eq!(asked(NEVER, NO_LOCK).await.unwrap(), s3(false, false, None));
        assert_eq!(asked(SUSPENDED, NO_LOCK).await.unwrap(), s3(true, false, None));
        let locked = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
            <Mode>GOVERNANCE</Mode><Years>2</Years></DefaultRetention></Rule></ObjectLockConfiguration>";
        let governance = Some((LockMode::Governance, 2 * 366 * DAY));
        assert_eq!(asked(SUSPENDED, (200, locked)).await.unwrap(), s3(true, true, governance));
        assert_eq!(asked(UNKNOWN, UNKNOWN).await.unwrap(), Lock::None);
        assert_eq!(asked(NEVER, UNKNOWN).await.unwrap(), s3(false, false, None));
    }

    #[tokio::test]
    async fn a_bucket_that_does_not_tell_is_not_taken_for_one_without_locks() {
        for (versioning, lock) in [(DENIED, NO_LOCK), (NEVER, DENIED), (SUSPENDED, DENIED)] {
            let error = asked(versioning, lock).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.explain().contains("AccessDenied"), "{}", error.explain());
            assert!(error.hint_text().unwrap().contains("s3:GetBucketVersioning"));
        }
    }

    #[test]
    fn who_deletes_depends_on_versions_and_locks() {
        let s3 = |versions, object_lock| Lock::S3 { versions, object_lock, default: None }.deletes();
        assert_eq!(s3(false, false), Deletes::Archiver);
        assert_eq!(
            (s3(true, false), s3(false, true), s3(true, true)),
            (Deletes::Store, Deletes::Store, Deletes::Store)
        );
        let azure = |immutable, legal_hold| Lock::Azure { immutable, legal_hold }.deletes();
        assert_eq!(
            (azure(false, false), azure(true, false), azure(false, true)),
            (Deletes::Archiver, Deletes::Store, Deletes::Store)
        );
        assert_eq!((Lock::None.deletes(), Lock::Unseen.deletes()), (Deletes::Archiver, Deletes::Store));
    }

    #[test]
    fn an_element_of_an_answer_is_found_by_its_name() {
        let xml = "<VersioningConfiguration xmlns=\"x\"><Status>Enabled</Status></VersioningConfiguration>";
        assert_eq!((tag(xml, "Status"), tag(xml, "Mode")), (Some("Enabled"), None));
    }
}
