//! Whose credentials an object store is asked with, and where it is: found out as object_store does, so that it can be said, and
//! so that nothing is taken in silence that was not meant.

use std::path::Path;
use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as S3, AwsCredential};
use object_store::azure::{AzureConfigKey as Azure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Google};

use super::profile::Profile;
use crate::config::Secret;
use crate::error::{Error, Result};

/// Who signs where nobody does.
const UNSIGNED: &str = "none: requests are not signed (skip_signature)";

/// What was set: the options of the configuration, and the environment.
pub(super) struct Settings<'a> {
    pub(super) options: &'a [(String, Secret)],
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

impl Settings<'_> {
    /// Whether one of the options is this one.
    fn has<K: std::str::FromStr + PartialEq>(&self, key: &K) -> bool {
        self.options
            .iter()
            .any(|(name, _)| name.to_ascii_lowercase().parse().is_ok_and(|named: K| named == *key))
    }

    /// From where something came that is set.
    fn origin<K: std::str::FromStr + PartialEq>(&self, key: &K) -> &'static str {
        if self.has(key) { "[archive.options]" } else { "the environment" }
    }
}

/// Which store it is and whose credentials are used, for people; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) store: String,
    pub(super) credentials: String,
}

/// Whether object_store takes this for yes.
fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

/// Whom requests to S3 are signed for.
enum Signer {
    Keys(AwsCredential),
    Profile(Profile),
    /// Nobody, or whoever object_store finds: in words.
    Found(String),
}

/// For S3 and its likes: chooses the credentials, and sets what a profile adds.
pub(super) fn s3(
    mut builder: AmazonS3Builder,
    profile: Option<&str>,
    set: &Settings<'_>,
) -> Result<(AmazonS3Builder, Access)> {
    let credentials = match signer(&builder, profile, set)? {
        Signer::Found(who) => who,
        Signer::Keys(keys) => {
            let kind =
                if keys.token.is_some() { "an access key with a session token" } else { "an access key" };
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(keys)));
            format!("{kind}, from {}", set.origin(&S3::AccessKeyId))
        }
        Signer::Profile(profile) => {
            builder = with_profile(builder, &profile)?;
            format!("the AWS profile {} of {}", profile.name, profile.files())
        }
    };
    let given = |key: S3| builder.get_config_value(&key);
    let at = given(S3::S3Endpoint).or(given(S3::Endpoint)).unwrap_or_else(|| "Amazon S3".to_owned());
    let region = given(S3::Region).unwrap_or_else(|| "us-east-1 (none is set)".to_owned());
    Ok((builder, Access { store: format!("{at}, region {region}"), credentials }))
}

/// In the order of AWS's own tools: a profile that is asked for, keys, web identity, the profile of the environment or the usual
/// one, the container's role, the instance's.
fn signer(builder: &AmazonS3Builder, profile: Option<&str>, set: &Settings<'_>) -> Result<Signer> {
    let given = |key: S3| builder.get_config_value(&key);
    let found = |who: &str| Ok(Signer::Found(who.to_owned()));
    let named = |name: &str| Profile::named(name, set.env);
    if given(S3::SkipSignature).is_some_and(|skip| is_true(&skip)) {
        return found(UNSIGNED);
    }
    match (given(S3::AccessKeyId), given(S3::SecretAccessKey)) {
        _ if profile.is_some() && !set.has(&S3::AccessKeyId) && !set.has(&S3::SecretAccessKey) => {}
        (None, None) => {}
        (Some(_), Some(_)) if profile.is_some() => {
            return Err(Error::invalid("the archive has both keys and a profile")
                .hint("remove one of them from [archive.options]"));
        }
        (Some(key_id), Some(secret_key)) => {
            // A session token in the environment belongs to the keys there, and to no others.
            let token = given(S3::Token).filter(|_| set.has(&S3::Token) || !set.has(&S3::AccessKeyId));
            return Ok(Signer::Keys(AwsCredential { key_id, secret_key, token }));
        }
        _ => {
            return Err(Error::invalid("the archive has half of a key")
                .hint("set both access_key_id and secret_access_key, or neither"));
        }
    }
    if let Some(name) = profile {
        return Ok(Signer::Profile(named(name)));
    }
    if let (Some(_), Some(role)) = (given(S3::WebIdentityTokenFile), given(S3::RoleArn)) {
        return Ok(Signer::Found(format!("web identity, as the role {role}")));
    }
    if let Some(name) = (set.env)("AWS_PROFILE").filter(|name| !name.is_empty()) {
        return Ok(Signer::Profile(named(&name)));
    }
    let usual = named("default");
    let settings = usual.read()?;
    if settings.keys().is_some() || settings.not_read().is_some() {
        return Ok(Signer::Profile(usual));
    }
    if given(S3::RoleArn).is_some() {
        return Err(Error::invalid("the archive has role_arn without web_identity_token_file")
            .hint("archiver assumes roles by web identity only: name the token's file, or let it run under the role"));
    }
    if given(S3::ContainerCredentialsRelativeUri).is_some() {
        return found("the role of the ECS task");
    }
    let pod = [S3::ContainerCredentialsFullUri, S3::ContainerAuthorizationTokenFile];
    match pod.into_iter().all(|key| given(key).is_some()) {
        true => found("EKS Pod Identity"),
        false => found("the role of the instance, from its metadata service"),
    }
}

/// Takes keys from a profile, which must have them, and region and endpoint where nothing else sets them.
fn with_profile(mut builder: AmazonS3Builder, profile: &Profile) -> Result<AmazonS3Builder> {
    profile.keys()?;
    let settings = profile.read()?;
    let unset = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_none();
    if let Some(region) = settings.get("region").filter(|_| unset(&builder, S3::Region)) {
        builder = builder.with_region(region);
    }
    let endpoint = settings.get("endpoint_url");
    if let Some(endpoint) =
        endpoint.filter(|_| unset(&builder, S3::Endpoint) && unset(&builder, S3::S3Endpoint))
    {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(builder.with_credentials(Arc::new(profile.clone())))
}

/// For Azure Blob Storage: what object_store will choose.
pub(super) fn azure(builder: &MicrosoftAzureBuilder, set: &Settings<'_>) -> Access {
    let given = |key: Azure| builder.get_config_value(&key);
    let is = |key: Azure| given(key).is_some_and(|value| is_true(&value));
    let all = |keys: &[Azure]| keys.iter().all(|key| given(*key).is_some());
    let credentials = if is(Azure::SkipSignature) {
        UNSIGNED.to_owned()
    } else if let Some(kind) = given(Azure::CredentialType).filter(|kind| kind != "auto") {
        format!("{kind} (credential_type)")
    } else if given(Azure::Token).is_some() {
        format!("a bearer token, from {}", set.origin(&Azure::Token))
    } else if given(Azure::AccessKey).is_some() {
        format!("the account's key, from {}", set.origin(&Azure::AccessKey))
    } else if all(&[Azure::ClientId, Azure::AuthorityId, Azure::FederatedTokenFile]) {
        format!("workload identity, as the client {}", given(Azure::ClientId).unwrap_or_default())
    } else if all(&[Azure::ClientId, Azure::AuthorityId, Azure::ClientSecret]) {
        format!("a service principal's secret, from {}", set.origin(&Azure::ClientSecret))
    } else if given(Azure::SasKey).is_some() {
        format!("a shared access signature, from {}", set.origin(&Azure::SasKey))
    } else if is(Azure::UseAzureCli) {
        "the Azure CLI's login".to_owned()
    } else {
        "the machine's managed identity, from its metadata service".to_owned()
    };
    let account = given(Azure::AccountName);
    let at = given(Azure::Endpoint).unwrap_or_else(|| "Azure Blob Storage".to_owned());
    Access {
        store: account.map_or_else(|| at.clone(), |account| format!("{at}, account {account}")),
        credentials,
    }
}

/// For Google Cloud Storage: what object_store will choose.
pub(super) fn google(builder: &GoogleCloudStorageBuilder, set: &Settings<'_>) -> Result<Access> {
    let given = |key: Google| builder.get_config_value(&key);
    let usual =
        (set.env)("HOME").unwrap_or_default() + "/.config/gcloud/application_default_credentials.json";
    let credentials = if given(Google::SkipSignature).is_some_and(|skip| is_true(&skip)) {
        UNSIGNED.to_owned()
    } else if given(Google::BearerToken).is_some() {
        format!("a bearer token, from {}", set.origin(&Google::BearerToken))
    } else if given(Google::ServiceAccountKey).is_some() {
        format!("a service account's key, from {}", set.origin(&Google::ServiceAccountKey))
    } else if let Some(file) = given(Google::ServiceAccount) {
        format!("a service account's key in {file}")
    } else if let Some(file) = given(Google::ApplicationCredentials) {
        check_default_credentials(&file)?;
        format!("application default credentials in {file}")
    } else if Path::new(&usual).exists() {
        check_default_credentials(&usual)?;
        format!("application default credentials in {usual}")
    } else {
        "the machine's service account, from its metadata service".to_owned()
    };
    let at = given(Google::BaseUrl).unwrap_or_else(|| "Google Cloud Storage".to_owned());
    Ok(Access { store: at, credentials })
}

/// Refuses a credentials file of a type that object_store does not read: it would only quote a parser.
fn check_default_credentials(file: &str) -> Result<()> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let kind = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|v| Some(v["type"].as_str()?.to_owned()));
    match kind.as_deref() {
        Some("service_account" | "authorized_user") | None => Ok(()),
        Some(kind) => Err(Error::invalid(format!("credentials of Google of this type can't be used: {file} type={kind}"))
            .hint("use a service account's key, or let archiver run under a service account of the machine or, on GKE, of the pod")),
    }
}
