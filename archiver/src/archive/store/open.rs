//! Opens the object store that a URL and its options name.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::Archive;
use super::checksum::WithContentMd5;
use super::credentials::{self, Access, Settings};
use super::lock;
use crate::config::{self, Secret};
use crate::error::{Error, Result};

/// A segment goes up in one PUT, so a request may take long. `timeout` in the options changes it.
const REQUEST_TIMEOUT: &str = "5 minutes";
/// object_store's own retries per request, and how long after the first try it begins no other; the commit protocol has its own
/// around them. `retries` and `retry_timeout` in the options change them.
const RETRIES: usize = 5;
const RETRY_TIME: Duration = Duration::from_secs(60);

const HINT_URL: &str =
    "write file:///folder, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix";

/// Opens a location; `create` makes the folder of a `file:` URL.
pub(super) fn open(url: &str, options: &[(String, Secret)], create: bool) -> Result<Archive> {
    let parsed = Url::parse(url).map_err(|e| bad_url("the archive's url is not a URL").because(e))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(
            Error::invalid("the archive's url holds credentials").hint("put them into [archive.options]")
        );
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(bad_url("the archive's url has a query or a fragment"));
    }
    let scheme = ObjectStoreScheme::parse(&parsed);
    let Ok((scheme, prefix)) = scheme else {
        return Err(bad_url(&format!(
            "the archive's url names no store that is known: scheme={}",
            parsed.scheme()
        )));
    };
    match scheme {
        ObjectStoreScheme::Local => open_folder(&parsed, options, create),
        ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::MicrosoftAzure
        | ObjectStoreScheme::GoogleCloudStorage => {
            check_plain_text(options)?;
            install_tls();
            let (own, options) = Own::of(options)?;
            let env = |name: &str| std::env::var(name).ok();
            let set = Settings { options: &options, env: &env };
            let (store, access, settings) = cloud(&scheme, &parsed, &own, &set)?;
            let archive = Archive::new(store, prefix.as_ref(), url)?;
            Ok(Archive { access: Some(Arc::new(access)), settings, ..archive })
        }
        _ => Err(bad_url(&format!("the archive can't be in such a store: scheme={}", parsed.scheme()))),
    }
}

fn bad_url(what: &str) -> Error {
    Error::invalid(what).hint(HINT_URL)
}

fn open_folder(url: &Url, options: &[(String, Secret)], create: bool) -> Result<Archive> {
    if let Some((name, _)) = options.first() {
        return Err(Error::invalid(format!("a folder has no options: option={name}"))
            .hint("remove [archive.options]"));
    }
    let folder = url.to_file_path().map_err(|()| bad_url("the archive's url is not a folder"))?;
    let shown = folder.display();
    if create {
        std::fs::create_dir_all(&folder).map_err(|e| {
            let error = Error::invalid(format!("the archive's folder can't be created: {shown}")).because(e);
            error.hint("give archiver the right to write there, or correct [archive] url")
        })?;
    }
    if !folder.is_dir() {
        return Err(Error::not_found(format!("there is no archive folder: {shown}")));
    }
    let store = LocalFileSystem::new_with_prefix(&folder);
    let store = store
        .map_err(|e| Error::invalid(format!("the archive's folder can't be opened: {shown}")).because(e))?;
    // Without fsync a commit could vanish in a power cut after the hot tier was trimmed behind it.
    let archive = Archive::new(Arc::new(store.with_fsync(true)), "", url.as_str())?;
    Ok(Archive { settings: lock::Settings::Folder, ..archive })
}

/// The options that are not object_store's.
struct Own {
    profile: Option<String>,
    retry: RetryConfig,
}

impl Own {
    /// Takes them from the others.
    fn of(options: &[(String, Secret)]) -> Result<(Own, Vec<(String, Secret)>)> {
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIME, ..RetryConfig::default() };
        let mut own = Own { profile: None, retry };
        let mut rest = Vec::new();
        for (name, value) in options {
            let text = value.expose();
            match name.to_ascii_lowercase().as_str() {
                "profile" | "aws_profile" => own.profile = Some(text.to_owned()),
                "retries" => {
                    let number = text.parse().ok().filter(|n| (0..=100).contains(n));
                    own.retry.max_retries =
                        number.ok_or_else(|| bad_option(name, "a whole number up to 100"))?;
                }
                "retry_timeout" => {
                    let time = config::duration(text);
                    own.retry.retry_timeout =
                        time.ok_or_else(|| bad_option(name, "a duration such as 60s"))?;
                }
                _ => rest.push((name.clone(), value.clone())),
            }
        }
        Ok((own, rest))
    }
}

fn bad_option(name: &str, form: &str) -> Error {
    Error::invalid(format!("an option of the archive's store is not usable: option={name}"))
        .hint(format!("write {form}"))
}

/// A builder with the environment's settings, then the options.
macro_rules! configured {
    ($builder:expr, $key:ty, $url:expr, $own:expr, $options:expr) => {{
        let timeout = <$key>::Client(ClientConfigKey::Timeout);
        let builder = $builder.with_url($url.as_str()).with_retry($own.retry.clone());
        let mut builder = builder.with_config(timeout, REQUEST_TIMEOUT);
        for (name, value) in $options {
            let key: $key = name.to_ascii_lowercase().parse().map_err(|_| unknown_option(name))?;
            builder = builder.with_config(key, value.expose());
        }
        builder
    }};
}

/// object_store quotes the value that it can't use: it may be a secret, so its option is named instead.
fn unusable_options(error: &object_store::Error, options: &[(String, Secret)]) -> Error {
    let mut text = error.to_string();
    for (name, value) in options {
        let hidden = value.hide_in(&text);
        if hidden != text {
            text = format!("{hidden} option={name}");
        }
    }
    Error::invalid("the archive's options do not fit together")
        .because(text)
        .hint("correct [archive] url and [archive.options]")
}

fn unknown_option(name: &str) -> Error {
    let error = Error::invalid(format!("the archive's store has no such option: option={name}"));
    error.hint(
        "for example endpoint, region, access_key_id, secret_access_key, account_name, allow_http, timeout",
    )
}

/// Refuses a plain-text endpoint that was not allowed: object_store would only fail at the first request, and not say why.
fn check_plain_text(options: &[(String, Secret)]) -> Result<()> {
    let named =
        |part: &'static str| options.iter().filter(move |(name, _)| name.to_ascii_lowercase().contains(part));
    let plain = named("endpoint").any(|(_, value)| value.expose().starts_with("http://"));
    let allowed = named("allow_http").any(|(_, value)| value.expose().eq_ignore_ascii_case("true"));
    if plain && !allowed && std::env::var_os("AWS_ALLOW_HTTP").is_none() {
        let error = Error::invalid("the archive's endpoint is plain HTTP, which is not allowed");
        return Err(error.hint("use https, or for a test set allow_http = \"true\" in [archive.options]"));
    }
    Ok(())
}

fn cloud(
    scheme: &ObjectStoreScheme,
    url: &Url,
    own: &Own,
    set: &Settings<'_>,
) -> Result<(Arc<dyn ObjectStore>, Access, lock::Settings)> {
    let options = set.options;
    let unusable = |error: object_store::Error| unusable_options(&error, options);
    if own.profile.is_some() && !matches!(scheme, ObjectStoreScheme::AmazonS3) {
        return Err(unknown_option("profile"));
    }
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            // Buckets under Object Lock take only PUTs with a checksum.
            let builder = AmazonS3Builder::from_env().with_checksum_algorithm(Checksum::SHA256);
            let builder = builder.with_http_connector(WithContentMd5::default());
            let builder = configured!(builder, AmazonS3ConfigKey, url, own, options);
            let (builder, access) = credentials::s3(builder, own.profile.as_deref(), set)?;
            let allow_http = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
            let http = lock::client(&client_options(options, allow_http)).map_err(unusable)?;
            let store = Arc::new(builder.build().map_err(unusable)?);
            (Arc::clone(&store) as Arc<dyn ObjectStore>, access, lock::Settings::S3(store, http))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = configured!(MicrosoftAzureBuilder::from_env(), AzureConfigKey, url, own, options);
            let access = credentials::azure(&builder, set);
            let (store, settings) = azure(builder, url, options)?;
            (store, access, settings)
        }
        _ => {
            let builder =
                configured!(GoogleCloudStorageBuilder::from_env(), GoogleConfigKey, url, own, options);
            let access = credentials::google(&builder, set)?;
            (Arc::new(builder.build().map_err(unusable)?), access, lock::Settings::Unseen)
        }
    })
}

fn azure(
    builder: MicrosoftAzureBuilder,
    url: &Url,
    options: &[(String, Secret)],
) -> Result<(Arc<dyn ObjectStore>, lock::Settings)> {
    let value = |key: AzureConfigKey| builder.get_config_value(&key);
    let http = client_options(options, value(AzureConfigKey::Client(ClientConfigKey::AllowHttp)));
    let account = value(AzureConfigKey::AccountName);
    // The builder looks into the URL only when it builds. Of other forms of it the settings can't be asked for.
    let named = url.host_str().filter(|_| url.scheme() == "az").map(str::to_owned);
    let container = value(AzureConfigKey::ContainerName).or(named);
    let endpoint = value(AzureConfigKey::Endpoint)
        .or(account.as_ref().map(|account| format!("https://{account}.blob.core.windows.net")));
    let unusable = |error: object_store::Error| unusable_options(&error, options);
    let store = Arc::new(builder.build().map_err(unusable)?);
    let settings = match (account, endpoint, container) {
        (Some(account), Some(endpoint), Some(container)) => lock::Settings::Azure {
            store: Arc::clone(&store),
            http: lock::client(&http).map_err(unusable)?,
            account,
            container: format!("{}/{container}", endpoint.trim_end_matches('/')),
        },
        _ => lock::Settings::Unseen,
    };
    Ok((store, settings))
}

/// What the options say of connections, for requests of our own.
fn client_options(options: &[(String, Secret)], allow_http: Option<String>) -> ClientOptions {
    let mut client = ClientOptions::new().with_config(ClientConfigKey::Timeout, REQUEST_TIMEOUT);
    for (name, value) in options {
        if let Ok(key) = name.to_ascii_lowercase().parse::<ClientConfigKey>() {
            client = client.with_config(key, value.expose());
        }
    }
    match allow_http {
        Some(allow) => client.with_config(ClientConfigKey::AllowHttp, allow),
        None => client,
    }
}

/// Chooses the process's TLS library; harmless when repeated. Opening an archive in the cloud does it too.
pub fn install_tls() {
    // Fails only where one is installed already, which then serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
