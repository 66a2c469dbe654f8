//! What a store's refusal means: who must act, and what to do next.
//!
//! Of an answer only its status, its code and its message are shown: S3 quotes the request that it refuses, session token included.

use std::error::Error as StdError;

use object_store::Error as StoreError;

use crate::Kind;
use crate::error::Error;

/// Characters of an answer that is not understood.
const SHOWN: usize = 400;

const REGION: &str =
    "set region in [archive.options] to the bucket's own, and remove an endpoint of another region";

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Create,
    Delete,
    List,
    LookFor,
    Read,
}

impl Doing {
    fn words(self) -> &'static str {
        match self {
            Doing::Create => "create",
            Doing::Delete => "delete",
            Doing::List => "list",
            Doing::LookFor => "look for",
            Doing::Read => "read",
        }
    }

    /// The right that it takes, by the name that each provider gives it.
    fn right(self, location: &str) -> String {
        let (s3, azure, google) = match self {
            Doing::Create => {
                ("s3:PutObject", "the SAS permissions create and write", "storage.objects.create")
            }
            Doing::Delete => ("s3:DeleteObject", "the SAS permission delete", "storage.objects.delete"),
            Doing::List => ("s3:ListBucket on the bucket", "the SAS permission list", "storage.objects.list"),
            Doing::LookFor | Doing::Read => {
                ("s3:GetObject", "the SAS permission read", "storage.objects.get")
            }
        };
        match location.split("://").next() {
            Some("s3" | "s3a") => format!(
                "{s3}, and where the bucket is encrypted with KMS kms:GenerateDataKey and kms:Decrypt"
            ),
            Some("gs") => {
                format!("{google}; the roles Storage Object Creator and Storage Object Viewer have all")
            }
            _ => format!("the role Storage Blob Data Contributor, or {azure}"),
        }
    }
}

/// A store's own words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
}

impl Answer {
    /// Finds them in the text of an error, which is all that object_store gives.
    fn of(text: &str) -> Answer {
        let after = |start: &str| text.split_once(start).map(|(_, rest)| rest);
        let status = after("non-2xx status code: ").and_then(|rest| rest.get(..3)?.parse().ok());
        let element = |name: &str| Some(after(&format!("<{name}>"))?.split('<').next()?.to_owned());
        let json = text.find('{').and_then(|at| {
            let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<serde_json::Value>();
            values.next()?.ok()
        });
        let field = |pointers: &[&str]| {
            let json = json.as_ref()?;
            pointers.iter().find_map(|pointer| Some(json.pointer(pointer)?.as_str()?.to_owned()))
        };
        Answer {
            status,
            code: element("Code").or_else(|| field(&["/error/status", "/error", "/Code"])),
            message: element("Message")
                .or_else(|| field(&["/error/message", "/error_description", "/Message"])),
        }
    }

    /// `403 AccessDenied: Access Denied`; `None` where there is not even a code.
    fn text(&self) -> Option<String> {
        let code = self.code.as_deref()?;
        let status = self.status.map(|status| format!("{status} ")).unwrap_or_default();
        // Azure adds request id and time in lines of their own.
        let message = self.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default();
        Some(format!("the store answers {status}{code}: {message}"))
    }
}

/// Whether it says that the bucket or container itself is missing.
pub(super) fn is_missing_container(error: &(dyn StdError + 'static)) -> bool {
    let text = chain(error);
    ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]
        .iter()
        .any(|code| text.contains(code))
}

/// What to tell about a failed request.
pub(super) fn explain(doing: Doing, key: &str, location: &str, error: &StoreError) -> Error {
    let what = format!("the archive can't {} {key} at {location}", doing.words());
    let text = chain(error);
    let answer = Answer::of(&text);
    let (kind, hint) = meaning(doing, location, error, &answer, &text);
    let shown = answer.text().unwrap_or_else(|| text.chars().take(SHOWN).collect());
    Error::new(kind, what).because(shown).hint(hint)
}

/// The error and its causes in one line, without those that only repeat what is below them.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn meaning(doing: Doing, location: &str, error: &StoreError, answer: &Answer, text: &str) -> (Kind, String) {
    if let Some((kind, hint)) = answer.code.as_deref().and_then(by_code) {
        return (kind, hint.to_owned());
    }
    if is_missing_container(error) {
        return (Kind::Invalid, "create the bucket or container, or correct [archive] url".to_owned());
    }
    let refused = matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. });
    if refused || matches!(answer.status, Some(401 | 403)) {
        let hint = format!(
            "archiver check shows whose credentials these are; what they must be allowed is {}",
            doing.right(location)
        );
        return (Kind::Invalid, hint);
    }
    if matches!(error, StoreError::NotSupported { .. } | StoreError::NotImplemented { .. })
        || answer.status == Some(501)
    {
        return (
            Kind::Invalid,
            "this store lacks something that the archive needs; archiver check says what".to_owned(),
        );
    }
    let (kind, hint) = by_text(text);
    (kind, hint.to_owned())
}

/// What the codes of S3 and its likes, of Azure and of Google mean that say more than their status.
fn by_code(code: &str) -> Option<(Kind, &'static str)> {
    Some(match code {
        "InvalidAccessKeyId" => (
            Kind::Invalid,
            "the store does not know this access key: archiver check shows where it comes from",
        ),
        "SignatureDoesNotMatch" => (
            Kind::Invalid,
            "the secret does not belong to the access key: correct secret_access_key. A proxy that changes requests has the same effect",
        ),
        "AuthenticationFailed" | "AuthorizationFailure" | "InvalidAuthenticationInfo" => (
            Kind::Invalid,
            "correct the account's key, or renew the token or shared access signature: it is wrong, has expired, or is of another account. Requests are also refused so where this machine's clock is off by more than 15 minutes",
        ),
        "KeyBasedAuthenticationNotPermitted" => {
            (Kind::Invalid, "the account takes no keys: use workload identity or a managed identity")
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => (
            Kind::Unavailable,
            "renew the credentials: keys in a profile are read again by themselves, others take a restart; or let archiver run under a role, which is renewed for it",
        ),
        "InvalidToken" | "InvalidClientTokenId" | "UnrecognizedClientException" => (
            Kind::Invalid,
            "the session token does not belong to the access key: set all three from one source",
        ),
        "RequestTimeTooSkewed" => {
            (Kind::Unavailable, "set this machine's clock (NTP): it is off by more than 15 minutes")
        }
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException" => (Kind::Invalid, REGION),
        "InvalidBucketName" | "InvalidResourceName" => {
            (Kind::Invalid, "correct the bucket's or container's name in [archive] url")
        }
        "AccountIsDisabled" | "AllAccessDisabled" => {
            (Kind::Invalid, "the account is disabled: ask its owner")
        }
        "NotImplemented" => (
            Kind::Invalid,
            "this store does not know conditional creation (If-None-Match: *), without which two writers could destroy history; use another, or a newer version of it",
        ),
        "invalid_grant" | "invalid_client" | "unauthorized_client" => (
            Kind::Invalid,
            "the identity provider refuses these credentials: correct or renew them, and look at this machine's clock",
        ),
        code if code.starts_with("KMS") => (
            Kind::Invalid,
            "the bucket's KMS key can't be used: look at its state, and at what the credentials may do with it",
        ),
        _ => return None,
    })
}

/// Where there is no answer, or one that says little.
fn by_text(text: &str) -> (Kind, &'static str) {
    let meanings = [
        (&["redirect without LOCATION", "status code: 301"][..], Kind::Invalid, REGION),
        (
            &["the AWS profile"],
            Kind::Unavailable,
            "put keys under that name again; the file is read for every request",
        ),
        (
            &["latest/api/token", "latest/meta-data", "metadata/identity", "computeMetadata"],
            Kind::Unavailable,
            "no credentials are set, and this machine's metadata service gives none: set them, or give the machine a role; archiver check shows what was looked for",
        ),
        (
            &["URL scheme is not allowed"],
            Kind::Invalid,
            "the endpoint is plain HTTP: use https, or for a test set allow_http = true in [archive.options]",
        ),
        (
            &["dns error"],
            Kind::Unavailable,
            "the store's name is not known here: correct endpoint, region or account_name, or look at DNS",
        ),
        (
            &["certificate"],
            Kind::Unavailable,
            "the store's certificate is not trusted: correct endpoint, or add its authority to the system's",
        ),
        (
            &["Connection refused"],
            Kind::Unavailable,
            "nothing listens there: correct endpoint, or start the store",
        ),
        (
            &["timed out"],
            Kind::Unavailable,
            "check that the store is reachable (firewalls, proxy_url); raise timeout in [archive.options] where the way to it is slow",
        ),
    ];
    let found = meanings.iter().find(|(parts, ..)| parts.iter().any(|part| text.contains(part)));
    found.map_or((Kind::Unavailable, "check that the store is reachable and has room"), |(_, kind, hint)| {
        (*kind, *hint)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    fn answer(status: &str, code: &str, message: &str) -> StoreError {
        generic(&format!(
            "Error performing PUT https://b.example.org/k in 1ms - Server returned non-2xx status code: {status}: \
             <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message>\
             <CanonicalRequest>x-amz-security-token:canary-token</CanonicalRequest></Error>"
        ))
    }

    #[test]
    fn every_refusal_says_what_to_do_and_quotes_no_request() {
        for (status, code, kind, part) in [
            ("403 Forbidden", "InvalidAccessKeyId", Kind::Invalid, "access key"),
            ("403 Forbidden", "SignatureDoesNotMatch", Kind::Invalid, "secret_access_key"),
            ("400 Bad Request", "ExpiredToken", Kind::Unavailable, "renew"),
            ("403 Forbidden", "RequestTimeTooSkewed", Kind::Unavailable, "clock"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", Kind::Invalid, "region"),
            ("404 Not Found", "NoSuchBucket", Kind::Invalid, "create the bucket"),
            ("403 Forbidden", "AccessDenied", Kind::Invalid, "s3:PutObject"),
            ("403 Forbidden", "AuthenticationFailed", Kind::Invalid, "clock"),
            ("501 Not Implemented", "NotImplemented", Kind::Invalid, "If-None-Match"),
            ("400 Bad Request", "KMS.DisabledException", Kind::Invalid, "KMS"),
            ("503 Service Unavailable", "SlowDown", Kind::Unavailable, "reachable"),
        ] {
            let error = explain(Doing::Create, "k", "s3://b", &answer(status, code, "in short"));
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.hint_text().unwrap().contains(part), "{code}: {:?}", error.hint_text());
            let text = error.explain();
            assert!(
                text.ends_with(&format!("the store answers {} {code}: in short", &status[..3])),
                "{text}"
            );
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_right_that_is_missing_is_named_by_its_providers_name() {
        let denied = answer("403 Forbidden", "AccessDenied", "Access Denied");
        for (location, doing, right) in [
            ("s3://b", Doing::List, "s3:ListBucket"),
            ("s3://b", Doing::Read, "s3:GetObject"),
            ("gs://b", Doing::Create, "storage.objects.create"),
            ("az://c", Doing::List, "Storage Blob Data Contributor"),
        ] {
            let error = explain(doing, "k", location, &denied);
            assert!(error.hint_text().unwrap().contains(right), "{right}: {:?}", error.hint_text());
        }
    }

    #[test]
    fn answers_of_identity_providers_and_no_answers_are_understood() {
        let entra = generic(
            "Error performing token request: Server returned non-2xx status code: 401 Unauthorized: \
             {\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: Invalid client secret provided.\",\"error_codes\":[7000215]}",
        );
        let error = explain(Doing::List, "sources", "az://c", &entra);
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.explain().contains("AADSTS7000215") && !error.explain().contains("error_codes"));
        let refused = generic("error sending request: tcp connect error: Connection refused (os error 111)");
        let error = explain(Doing::List, "sources", "s3://b", &refused);
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.hint_text().unwrap().contains("endpoint"));
    }
}
