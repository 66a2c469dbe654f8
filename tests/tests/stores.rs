//! The archive on object stores, over the wire: S3 and Azure Blob, looked at with the providers' own clients and with DuckDB.

use archiver_tests::cloud::{AZURE_ACCOUNT, Bucket, Kind};
use archiver_tests::http_proxy::{Fate, HttpProxy, Only, Weather};
use archiver_tests::workload::{Workload, seed};
use archiver_tests::{Fixture, Server, duckdb};
use bson::doc;

async fn whole_life(kind: Kind) {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::new(kind).await;
    let archive = bucket.section("segment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"");
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    fixture.ok(&["check"]).await;
    fixture.run_once().await;
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(400).await;
    fixture.run_once().await;
    // Everything is in the store alone now, sealed, and reads back through each door.
    assert_eq!(fixture.count("orders").await, 0);
    let next = fixture.checkpoint("orders").await.unwrap().get_i64("nextSeq").unwrap();
    let keys = bucket.keys();
    let (manifests, segments): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.starts_with("_manifests/"));
    assert!(segments.len() > 1 && manifests.len() == segments.len(), "{keys:?}");
    let counted = duckdb::query(&format!(
        "{}SELECT count(*) AS n, count(DISTINCT seq) AS seqs, max(seq) AS last FROM read_parquet('{}')",
        bucket.duckdb(),
        bucket.glob("orders")
    ));
    assert_eq!((&counted[0]["n"], &counted[0]["seqs"]), (&(next - 1).into(), &(next - 1).into()));
    assert_eq!(counted[0]["last"], next - 1);
    fixture.ok(&["verify"]).await;
    let orders = fixture.collection("orders");
    let left = orders.find_one(doc! {}).await.unwrap().expect("the workload leaves documents");
    let id = left.get("_id").unwrap().to_string();
    orders.delete_one(doc! {"_id": left.get("_id").unwrap()}).await.unwrap();
    fixture.run_once().await;
    let recovered = ["recover", "--source", "orders", "--id", &id, "--format", "bson"];
    assert_eq!(fixture.archiver.run_for_bytes(&recovered).await, left.to_vec().unwrap());
}

#[tokio::test]
async fn an_archive_on_s3_is_rolled_queried_verified_and_recovered_from() {
    whole_life(Kind::S3).await;
}

#[tokio::test]
async fn an_archive_on_azure_is_rolled_queried_verified_and_recovered_from() {
    whole_life(Kind::Azure).await;
}

#[tokio::test]
async fn under_object_lock_every_key_has_one_version_and_nothing_is_deleted() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::locked(30).await;
    let archive = bucket.section("segment_max_bytes = \"64KiB\"\nhot_retention = \"0s\"");
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    for _ in 0..2 {
        workload.run(200).await;
        fixture.run_once().await;
    }
    fixture.ok(&["verify"]).await;
    let versions = bucket.versions();
    assert!(versions.len() > 4 && versions.iter().all(|(_, n)| *n == 1), "{versions:?}");
}

#[tokio::test]
async fn an_answer_that_tells_nothing_of_the_object_is_not_believed() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::locked(30).await;
    let proxy = HttpProxy::start(bucket.address(), seed()).await;
    let archive = bucket.through(&proxy.url()).section("") + "retries = 2\n";
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(20).await;
    // Somebody else is creating it, says S3, and nothing is there: object_store calls that "already exists".
    proxy.set(Weather::Always(
        Fate::refuse(409, "ConditionalRequestConflict", "A conflicting operation"),
        Only::Puts,
    ));
    let outcome = fixture.archiver.run(&["run", "--once"]).await.expect_code(11);
    outcome.expect_message(&["409 ConditionalRequestConflict"]);
    assert!(bucket.keys().is_empty());
    // It is created, and nobody hears of it; object_store tries again, and meets its own object.
    proxy.set(Weather::Always(Fate::LoseReply, Only::Puts));
    fixture.run_once().await;
    proxy.set(Weather::Fair);
    fixture.ok(&["verify"]).await;
    let versions = bucket.versions();
    assert!(versions.len() == 2 && versions.iter().all(|(_, n)| *n == 1), "{versions:?}");
    let next = fixture.checkpoint("orders").await.unwrap().get_i64("nextSeq").unwrap();
    assert_eq!(next, fixture.count("orders").await as i64 + 1);
}

/// The configuration of a fixture with this bucket and these lines of `[archive.options]`.
fn configure(fixture: &Fixture, bucket: &Bucket, options: &str) {
    let quick = "retries = 0\ntimeout = \"20s\"\n";
    let archive = bucket.section_as("", &format!("{options}{quick}"));
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
}

/// Keys, as lines of `[archive.options]`.
fn keys(key: &str, secret: &str) -> String {
    format!("region = \"us-east-1\"\naccess_key_id = \"{key}\"\nsecret_access_key = \"{secret}\"\n")
}

/// `check` fails with these words about the archive, and shows none of these secrets.
async fn refused(fixture: &Fixture, words: &[&str], secrets: &[&str]) {
    let outcome = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(3);
    let findings = outcome.json();
    let archive = |f: &&serde_json::Value| f["about"] == "archive" && f["level"] == "fail";
    let finding = findings.as_array().unwrap().iter().find(archive).unwrap_or_else(|| panic!("{findings}"));
    let text = format!("{} {}", finding["what"], finding["hint"]);
    println!("{text}");
    words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in {text}"));
    let all = outcome.stdout + &outcome.stderr;
    secrets.iter().for_each(|secret| assert!(!all.contains(secret), "a secret is shown: {all}"));
}

/// What `check` says whose credentials are used, where all is well.
async fn credentials(fixture: &Fixture) -> String {
    let findings = fixture.archiver.run(&["check", "--format", "json"]).await.expect_code(0).json();
    let told = |f: &&serde_json::Value| f["about"] == "archive" && f["level"] == "info";
    findings.as_array().unwrap().iter().find(told).unwrap()["what"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn check_says_of_s3_whose_credentials_are_used_and_what_they_lack() {
    let server = Server::shared().await;
    let mut fixture = Fixture::new(&server);
    let everything = ["s3:*"].as_slice();
    let (bucket, accounts) = Bucket::guarded(&[
        ("everything", everything),
        ("list-not", &["s3:GetObject", "s3:PutObject"]),
        ("read-not", &["s3:ListBucket", "s3:PutObject"]),
        ("create-not", &["s3:ListBucket", "s3:GetObject"]),
    ])
    .await;
    let of = |account: &str| keys(&accounts[account].0, &accounts[account].1);
    configure(&fixture, &bucket, &of("everything"));
    assert!(credentials(&fixture).await.contains("an access key, from [archive.options]"));
    for (account, right) in
        [("list-not", "s3:ListBucket"), ("read-not", "s3:GetObject"), ("create-not", "s3:PutObject")]
    {
        configure(&fixture, &bucket, &of(account));
        refused(&fixture, &["AccessDenied", right], &[&accounts[account].1]).await;
    }
    let (key, secret) = &accounts["everything"];
    configure(&fixture, &bucket, &keys("AKIANOBODYNOBODYNOBO", secret));
    refused(&fixture, &["InvalidAccessKeyId", "does not know this access key"], &[secret]).await;
    configure(&fixture, &bucket, &keys(key, "canary-of-a-wrong-secret"));
    refused(&fixture, &["SignatureDoesNotMatch", "secret_access_key"], &["canary-of-a-wrong"]).await;
    // The same account by a profile, beside keys in the environment that would be refused.
    let file = fixture.path("aws");
    std::fs::write(&file, format!("[audit]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"))
        .unwrap();
    fixture.archiver.env("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    fixture.archiver.env("AWS_CONFIG_FILE", "/nowhere");
    configure(&fixture, &bucket, "region = \"us-east-1\"\n");
    fixture.archiver.env("AWS_PROFILE", "audit");
    assert!(credentials(&fixture).await.contains("the AWS profile audit of"));
    configure(&fixture, &bucket, "region = \"us-east-1\"\nprofile = \"nobody\"\n");
    refused(&fixture, &["there is no AWS profile nobody"], &[]).await;
    fixture.archiver.env("AWS_ACCESS_KEY_ID", "AKIANOBODYNOBODYNOBO");
    fixture.archiver.env("AWS_SECRET_ACCESS_KEY", "canary-of-the-environment");
    configure(&fixture, &bucket, "region = \"us-east-1\"\nprofile = \"audit\"\n");
    assert!(credentials(&fixture).await.contains("the AWS profile audit of"));
    configure(&fixture, &bucket, "region = \"us-east-1\"\n");
    refused(&fixture, &["InvalidAccessKeyId"], &["canary-of-the"]).await;
}

#[tokio::test]
async fn the_role_of_an_instance_is_used_where_nothing_else_is_set() {
    let server = Server::shared().await;
    let mut fixture = Fixture::new(&server);
    let bucket = Bucket::new(Kind::S3).await;
    fixture.archiver.env("HOME", "/nowhere");
    let metadata = format!("region = \"us-east-1\"\nmetadata_endpoint = \"http://{}\"\n", bucket.address());
    configure(&fixture, &bucket, &metadata);
    assert!(credentials(&fixture).await.contains("the role of the instance"));
    configure(&fixture, &bucket, "region = \"us-east-1\"\nmetadata_endpoint = \"http://127.0.0.1:9\"\n");
    refused(&fixture, &["no credentials are set", "latest/api/token"], &[]).await;
}

#[tokio::test]
async fn check_says_what_is_wrong_with_the_place_the_time_or_the_region() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::new(Kind::S3).await;
    let proxy = HttpProxy::start(bucket.address(), seed()).await;
    let through = bucket.through(&proxy.url());
    let answers = [
        (
            400,
            "AuthorizationHeaderMalformed",
            "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            "set region",
        ),
        (301, "PermanentRedirect", "", "set region"),
        (
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large.",
            "clock",
        ),
        (400, "ExpiredToken", "The provided token has expired.", "renew the credentials"),
        (
            501,
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            "If-None-Match",
        ),
    ];
    for (status, code, message, hint) in answers {
        configure(&fixture, &through, &bucket.credentials());
        proxy.set(Weather::Always(Fate::refuse(status, code, message), Only::All));
        refused(&fixture, &[hint, message], &["secret-of-the-test"]).await;
    }
    proxy.set(Weather::Always(Fate::Hang, Only::All));
    configure(&fixture, &through, &bucket.credentials());
    let file = fixture.path("archiver.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("\"20s\"", "\"300ms\"")).unwrap();
    refused(&fixture, &["timed out", "timeout in [archive.options]"], &[]).await;
    configure(&fixture, &bucket.through("http://127.0.0.1:9"), &bucket.credentials());
    refused(&fixture, &["nothing listens there"], &[]).await;
    configure(&fixture, &bucket.through("http://store.invalid"), &bucket.credentials());
    refused(&fixture, &["name is not known"], &[]).await;
    configure(&fixture, &bucket, &bucket.credentials());
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("s3://audit-", "s3://nothing-")).unwrap();
    refused(&fixture, &["NoSuchBucket", "create the bucket"], &[]).await;
}

#[tokio::test]
async fn check_says_of_azure_whose_credentials_are_used_and_what_they_lack() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::new(Kind::Azure).await;
    let account = format!("account_name = \"{AZURE_ACCOUNT}\"\n");
    let shared = |permissions, minutes| {
        format!("{account}sas_token = \"{}\"\n", bucket.shared_access(permissions, minutes))
    };
    configure(&fixture, &bucket, &bucket.credentials());
    assert!(credentials(&fixture).await.contains("the account's key, from [archive.options]"));
    configure(&fixture, &bucket, &shared("rcl", 10));
    assert!(credentials(&fixture).await.contains("a shared access signature"));
    for (permissions, right) in
        [("rc", "permission list"), ("cl", "permission read"), ("rl", "permissions create")]
    {
        configure(&fixture, &bucket, &shared(permissions, 10));
        refused(&fixture, &["403", right], &["sig="]).await;
    }
    configure(&fixture, &bucket, &shared("rcl", -10));
    refused(&fixture, &["has expired"], &["sig="]).await;
    let wrong = "Y2FuYXJ5LW9mLWEtd3Jvbmcta2V5";
    configure(&fixture, &bucket, &format!("{account}account_key = \"{wrong}\"\n"));
    refused(&fixture, &["correct the account's key"], &[wrong]).await;
    configure(&fixture, &bucket, &bucket.credentials());
    let file = fixture.path("archiver.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("az://audit-", "az://nothing-")).unwrap();
    refused(&fixture, &["ContainerNotFound", "create the bucket or container"], &[]).await;
}

#[tokio::test]
async fn objects_are_encrypted_by_the_store_as_the_options_say() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::new(Kind::S3).await;
    let encrypted = "server_side_encryption = \"aws:kms\"\nsse_kms_key_id = \"alias/audit\"\nsse_bucket_key_enabled = true\n";
    configure(&fixture, &bucket, &(bucket.credentials() + encrypted));
    Workload::new(server.client(), fixture.collection("orders"), seed()).run(20).await;
    fixture.run_once().await;
    let keys = bucket.keys();
    assert!(keys.len() >= 2 && keys.iter().all(|key| bucket.encryption(key).as_deref() == Some("aws:kms")));
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_glob_is_right_at_any_moment_on_s3() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let bucket = Bucket::new(Kind::S3).await;
    let archive =
        bucket.section("segment_max_bytes = \"32KiB\"\nhot_retention = \"0s\"\ntable_format = \"delta\"");
    fixture.configure(&(archive + &Fixture::source("orders", &["orders"])));
    let mut workload = Workload::new(server.client(), fixture.collection("orders"), seed());
    let running = fixture.start();
    let (mut looks, mut sizes) = (0, Vec::new());
    while looks < 6 {
        workload.run(60).await;
        if !bucket.keys().iter().any(|key| key.ends_with(".parquet")) {
            continue;
        }
        // The glob of everything, while a Delta log is written beside the segments.
        let row = &duckdb::query(&format!(
            "{}SELECT count(*) AS n, count(DISTINCT seq) AS d, min(seq) AS first, max(seq) AS last \
             FROM read_parquet('{}/source=*/date=*/*.parquet')",
            bucket.duckdb(),
            bucket.url()
        ))[0];
        assert_eq!((&row["n"], &row["d"]), (&row["last"], &row["last"]), "a gap or a repeat: {row}");
        assert_eq!(row["first"], 1);
        sizes.push(row["n"].as_i64().unwrap());
        looks += 1;
    }
    running.terminate().await.expect_code(0);
    assert!(sizes.windows(2).any(|pair| pair[0] < pair[1]), "nothing was rolled meanwhile: {sizes:?}");
}
