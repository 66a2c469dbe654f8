//! AWS profiles: the keys, the region and the endpoint that a shared credentials or config file holds under a name. object_store
//! reads none of them.
//!
//! The file is read again for every request, so keys that something else renews there are used at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::error::{Error, Result};

/// What a profile may hold that takes more than reading: whoever wants it exports the keys.
const NOT_READ: [&str; 6] =
    ["sso_session", "sso_start_url", "role_arn", "credential_process", "credential_source", "login_session"];

/// A name in the two files in which AWS's tools keep profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: String,
    credentials: PathBuf,
    config: PathBuf,
}

/// What the files say under a profile's name.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<String, String>);

impl Profile {
    /// A profile in the files that the environment names, else in those in the home folder.
    pub(super) fn named(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Profile {
        let home = PathBuf::from(env("HOME").unwrap_or_default()).join(".aws");
        let file =
            |variable: &str, usual: &str| env(variable).map_or_else(|| home.join(usual), PathBuf::from);
        Profile {
            name: name.to_owned(),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: file("AWS_CONFIG_FILE", "config"),
        }
    }

    /// What both files say; the credentials file counts where they differ. Empty where neither knows the name.
    pub(super) fn read(&self) -> Result<Settings> {
        let mut found = BTreeMap::new();
        let in_config = match self.name.as_str() {
            "default" => "default".to_owned(),
            name => format!("profile {name}"),
        };
        for (file, section) in [(&self.config, in_config.as_str()), (&self.credentials, &self.name)] {
            match std::fs::read_to_string(file) {
                Ok(text) => found.extend(section_of(&text, section)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    let what = format!("a file of AWS profiles can't be read: {}", file.display());
                    return Err(Error::invalid(what).because(e).hint("let archiver's account read it"));
                }
            }
        }
        Ok(Settings(found))
    }

    /// The keys under this name, which must be there.
    pub(super) fn keys(&self) -> Result<AwsCredential> {
        let settings = self.read()?;
        if let Some(credential) = settings.keys() {
            return Ok(credential);
        }
        let (name, files) = (&self.name, self.files());
        Err(match settings.not_read() {
            _ if settings.0.is_empty() => Error::invalid(format!("there is no AWS profile {name} in {files}"))
                .hint("correct profile in [archive.options], or AWS_PROFILE"),
            Some(key) => Error::invalid(format!("the AWS profile {name} in {files} has {key} and no keys of its own"))
                .hint(format!("archiver reads aws_access_key_id, aws_secret_access_key and aws_session_token. Let it run under a role (web identity, container, instance), or export keys: aws configure export-credentials --profile {name} --format env")),
            None => Error::invalid(format!("the AWS profile {name} in {files} lacks aws_access_key_id or aws_secret_access_key"))
                .hint("add both, or correct profile in [archive.options], or AWS_PROFILE"),
        })
    }

    /// Where it is looked for.
    pub(super) fn files(&self) -> String {
        format!("{} and {}", self.credentials.display(), self.config.display())
    }
}

impl Settings {
    /// A setting other than keys, such as `region`.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The setting that says that keys are to be got from elsewhere.
    pub(super) fn not_read(&self) -> Option<&'static str> {
        NOT_READ.into_iter().find(|key| self.0.contains_key(*key))
    }

    /// The keys, where both are there.
    pub(super) fn keys(&self) -> Option<AwsCredential> {
        Some(AwsCredential {
            key_id: self.get("aws_access_key_id")?.to_owned(),
            secret_key: self.get("aws_secret_access_key")?.to_owned(),
            token: self.get("aws_session_token").map(str::to_owned),
        })
    }
}

#[async_trait]
impl CredentialProvider for Profile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let keys = self.keys();
        keys.map(Arc::new).map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })
    }
}

/// The keys of one section of an INI file as AWS's tools write it. Lines that are indented belong to the setting above them, and
/// hold nothing that is read here.
fn section_of(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            inside = header.split_whitespace().eq(name.split_whitespace());
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            found.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Kind;

    const CREDENTIALS: &str = "# of the deployment\n[default]\naws_access_key_id = D\naws_secret_access_key=d=d\n\n\
        [audit]\naws_access_key_id = A # the archive's\naws_secret_access_key = a\naws_session_token = t\nregion = eu-north-1\n";
    const CONFIG: &str = "[profile audit]\nregion = eu-west-1\nendpoint_url = https://s3.example.org\n\
        services = local\n[services local]\ns3 =\n  endpoint_url = http://other\n\
        [profile  people]\nsso_session = corp\nregion = eu-west-1\n[profile half]\naws_access_key_id = H\n";

    fn profile(folder: &std::path::Path, name: &str) -> Profile {
        std::fs::write(folder.join("credentials"), CREDENTIALS).unwrap();
        std::fs::write(folder.join("config"), CONFIG).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        Profile::named(name, &|variable| match variable {
            "AWS_SHARED_CREDENTIALS_FILE" => Some(file("credentials")),
            "AWS_CONFIG_FILE" => Some(file("config")),
            _ => None,
        })
    }

    #[test]
    fn keys_region_and_endpoint_are_read_from_both_files() {
        let folder = tempfile::tempdir().unwrap();
        let audit = profile(folder.path(), "audit");
        let keys = audit.keys().unwrap();
        assert_eq!(
            (keys.key_id.as_str(), keys.secret_key.as_str(), keys.token.as_deref()),
            ("A", "a", Some("t"))
        );
        let settings = audit.read().unwrap();
        assert_eq!(settings.get("region"), Some("eu-north-1"), "the credentials file counts");
        assert_eq!(settings.get("endpoint_url"), Some("https://s3.example.org"));
        let keys = profile(folder.path(), "default").keys().unwrap();
        assert_eq!((keys.key_id.as_str(), keys.secret_key.as_str(), keys.token), ("D", "d=d", None));
    }

    #[test]
    fn a_profile_without_keys_says_why_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (name, part) in
            [("people", "sso_session"), ("half", "aws_secret_access_key"), ("nobody", "no AWS profile")]
        {
            let error = profile(folder.path(), name).keys().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(part) && error.to_string().contains(name), "{error}");
            assert!(error.hint_text().is_some());
        }
    }

    #[tokio::test]
    async fn keys_that_are_renewed_in_the_file_are_used_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let audit = profile(folder.path(), "audit");
        assert_eq!(audit.get_credential().await.unwrap().key_id, "A");
        std::fs::write(folder.path().join("credentials"), CREDENTIALS.replace("= A ", "= B ")).unwrap();
        assert_eq!(audit.get_credential().await.unwrap().key_id, "B");
    }

    #[test]
    fn the_files_of_the_home_folder_are_the_usual_ones() {
        let of_home = Profile::named("x", &|name| (name == "HOME").then(|| "/somewhere".to_owned()));
        assert_eq!(of_home.files(), "/somewhere/.aws/credentials and /somewhere/.aws/config");
    }
}
