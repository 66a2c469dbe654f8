//! Archiver under exactly the roles of deploy/mongodb-roles.json: watched deployment and audit database on two servers that
//! demand TLS, with passwords and with certificates; and every single privilege of these roles is needed.

use std::sync::Arc;
use std::time::Duration;

use archiver_tests::certificates::{Authority, Validity, subject};
use archiver_tests::process::Outcome;
use archiver_tests::replica_set::Settings;
use archiver_tests::roles::{self, Names, Privilege};
use archiver_tests::{Fixture, Server, tools, wait_until};
use bson::doc;
use futures_util::{StreamExt, stream};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const FINDINGS: i32 = 3;
const UNAVAILABLE: i32 = 11;

/// A watched deployment and an audit server, both with access control and TLS.
struct Servers {
    authority: Arc<Authority>,
    watched: Server,
    audit: Server,
}

impl Servers {
    async fn start() -> Servers {
        let authority = Arc::new(Authority::new());
        let settings = Settings { auth: true, tls: Some(Arc::clone(&authority)), ..Settings::default() };
        let (watched, audit) = tokio::join!(Server::own(settings.clone()), Server::own(settings));
        Servers { authority, watched, audit }
    }

    /// Where a role belongs.
    fn of(&self, role: &str) -> &Server {
        match roles::roles()[role]["on"].as_str() {
            Some("watched") => &self.watched,
            Some("audit") => &self.audit,
            // Another database of any deployment.
            Some("target") => &self.watched,
            other => panic!("{role} is for neither side: {other:?}"),
        }
    }
}

/// One set of databases, roles and accounts on both servers.
struct World<'a> {
    servers: &'a Servers,
    fixture: Fixture,
    names: Names,
}

impl World<'_> {
    fn new(servers: &Servers) -> World<'_> {
        let fixture = Fixture::across(&servers.watched, &servers.audit);
        let names = Names {
            watched: vec![fixture.db.name().to_owned()],
            audit: fixture.audit.name().to_owned(),
            sources: vec!["orders".to_owned()],
            targets: vec![format!("again_{}", fixture.tag())],
        };
        let world = World { servers, fixture, names };
        world.watch("{db}.orders");
        world
    }

    /// One source of that name; trims at once, and takes a lease over soon.
    fn watch(&self, namespace: &str) {
        self.fixture.configure(&format!(
            "[capture]\nlease_time = \"2s\"\n\n[archive]\nurl = \"{{archive}}\"\nhot_retention = \"0s\"\n\n\
             [[source]]\nname = \"orders\"\nwatch = [\"{namespace}\"]\n"
        ));
    }

    /// A name of its own for this world: roles and accounts belong to a server.
    fn own(&self, name: &str) -> String {
        format!("{name}_{}", self.fixture.tag())
    }

    /// Creates a role, or changes it, with all but one of its privileges.
    async fn define(&self, role: &str, missing: Option<&Privilege>) {
        let mut privileges = roles::privileges(role, &self.names);
        privileges.retain(|p| Some(p) != missing);
        roles::define(self.servers.of(role).client(), &self.own(role), &privileges).await;
    }

    async fn grant(&mut self, granted: &[&str], missing: Option<&Privilege>) {
        self.grant_to(&self.own("archiver"), granted, missing).await;
    }

    /// Creates an account on each side with these roles, all but one privilege of them, and connects as it.
    async fn grant_to(&mut self, user: &str, granted: &[&str], missing: Option<&Privilege>) {
        for role in granted {
            self.define(role, missing).await;
        }
        for server in [&self.servers.watched, &self.servers.audit] {
            let here = granted.iter().filter(|role| std::ptr::eq(self.servers.of(role), server));
            let here: Vec<String> = here.map(|role| self.own(role)).collect();
            roles::account(server.client(), user, "pass-w0rd", &here).await;
            roles::certificate_account(server.client(), &subject(user), &here).await;
        }
        self.log_in(&format!("{user}:pass-w0rd"), "&authSource=admin");
    }

    fn log_in(&mut self, account: &str, options: &str) {
        let uri = |server: &Server| server.mongod().uri_of(account, options);
        let uris = [uri(&self.servers.watched), uri(&self.servers.audit)];
        self.fixture.connect(&uris[0], &uris[1]);
    }

    async fn check(&self) -> Vec<Value> {
        let outcome = self.fixture.archiver.run(&["check", "--format", "json"]).await;
        let findings = outcome.json().as_array().unwrap().clone();
        let failed = findings.iter().any(|f| f["level"] == "fail");
        outcome.expect_code(if failed { FINDINGS } else { 0 });
        findings
    }
}

fn texts(findings: &[Value], level: &str) -> Vec<String> {
    let of_level = findings.iter().filter(|f| f["level"] == level);
    of_level.map(|f| format!("{}: {} → {}", f["about"], f["what"], f["hint"])).collect()
}

/// Everything that Archiver does, from the check before the first start to trimming behind the archive.
async fn everything_works(world: &World<'_>) {
    let fixture = &world.fixture;
    let findings = world.check().await;
    assert_eq!(texts(&findings, "fail"), [""; 0]);
    let warned = texts(&findings, "warn");
    assert!(!warned.iter().any(|w| w.contains("mongodb") || w.contains("audit log")), "{warned:#?}");
    fixture.run_once().await;

    let (watched, orders) = (world.servers.watched.client(), fixture.collection("orders"));
    let mut session = watched.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    orders.insert_one(doc! {"_id": "late", "n": 1}).session(&mut session).await.unwrap();
    orders.update_one(doc! {"_id": "first"}, doc! {"$inc": {"n": 1}}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    let last = fixture.checkpoint("orders").await.unwrap().get_i64("nextSeq").unwrap();
    let running = fixture.archiver.start(&["run", "--log-level", "debug"]);
    wait_until("the transaction is captured", LIMIT, || async {
        let checkpoint = fixture.checkpoint("orders").await?;
        (checkpoint.get_i64("nextSeq").ok()? >= last + 2).then_some(())
    })
    .await;
    running.kill().await;

    orders.delete_one(doc! {"_id": "late"}).await.unwrap();
    let taken_over = fixture.run_once().await;
    // Among others: the session of the killed writer could be ended.
    assert!(!taken_over.stderr.contains("WARN"), "{}", taken_over.stderr);
    everything_can_be_looked_at(fixture).await;
    orders.delete_one(doc! {"_id": "first"}).await.unwrap();
    orders.insert_one(doc! {"_id": "first", "n": 0}).await.unwrap();
    let running = fixture.archiver.start(&["run", "--log-level", "debug"]);
    wait_until("the changes are captured and rolled", LIMIT, || async {
        let rolled = fixture.archiver.run(&["roll"]).await.expect_code(0);
        rolled.stdout.contains("orders").then_some(())
    })
    .await;
    let ended = running.terminate().await.expect_code(0);
    assert!(!ended.stderr.contains("not authorized"), "{}", ended.stderr);
}

/// What reads the history and writes nothing.
async fn everything_can_be_looked_at(fixture: &Fixture) {
    let status = fixture.archiver.run(&["status", "--format", "json"]).await.expect_code(0).json();
    assert_eq!(status[0]["problems"], serde_json::json!([]), "{status:#}");
    let history =
        fixture.archiver.run(&["history", "--source", "orders", "--id", "late"]).await.expect_code(0);
    assert!(history.stdout.contains("delete"), "{}", history.stdout);
    let recovered = fixture.ok(&["recover", "--source", "orders", "--id", "late"]).await;
    assert!(recovered.contains("\"late\""), "{recovered}");
    fixture.ok(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_under_the_deployed_roles_with_passwords_and_with_certificates() {
    let servers = Servers::start().await;
    let mut world = World::new(&servers);
    world.grant(&["archiverWatch", "archiverMonitor", "archiverAudit"], None).await;
    world.fixture.create_with_images("orders").await.insert_one(doc! {"_id": "first", "n": 0}).await.unwrap();
    everything_works(&world).await;

    let user = world.own("archiver");
    let key = servers.authority.client(&user, Validity::Present);
    world.log_in("", &format!("&authMechanism=MONGODB-X509&tlsCertificateKeyFile={}", key.display()));
    everything_works(&world).await;
    let account = format!("account {}@$external", subject(&user));
    assert!(texts(&world.check().await, "ok").iter().any(|f| f.contains(&account)));

    let mut all = World::new(&servers);
    all.watch("*");
    all.grant(&["archiverWatchAll", "archiverAudit"], None).await;
    assert_eq!(texts(&all.check().await, "fail"), [""; 0]);
    all.fixture.collection("orders").insert_one(doc! {"_id": "of all"}).await.unwrap();
    all.fixture.run_once().await;
    all.fixture.ok(&["history", "--source", "orders", "--id", "of all"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_privilege_of_the_deployed_roles_is_needed_and_named_by_check() {
    let servers = Servers::start().await;
    let without = |role: String, n: usize| {
        let servers = &servers;
        async move { one_privilege_less(servers, &role, n).await }
    };
    let mut cases = Vec::new();
    for role in roles::named(false) {
        let count = roles::privileges(&role, &World::new(&servers).names).len();
        cases.extend((0..count).map(|n| without(role.clone(), n)));
    }
    assert!(cases.len() > 15, "the roles are written in another way now");
    // Mostly they wait before they try again.
    stream::iter(cases).buffer_unordered(8).collect::<Vec<()>>().await;
}

/// Captures, rolls and trims with all privileges but the n-th of this role, which must not work.
async fn one_privilege_less(servers: &Servers, role: &str, n: usize) {
    let mut world = World::new(servers);
    let mut watching = "archiverWatch";
    if role == "archiverWatchAll" {
        watching = role;
        world.watch("*");
    }
    let missing = roles::privileges(role, &world.names)[n].clone();
    world.grant(&[watching, "archiverAudit"], Some(&missing)).await;
    let fixture = &world.fixture;
    // Only what is larger than one MongoDB document takes makes use of the overflow.
    let large = missing.resource.get_str("collection").is_ok_and(|c| c == "archiver.overflow");
    let text = "x".repeat(if large { 16 * 1024 * 1024 - 100 } else { 1 });
    fixture.collection("orders").insert_one(doc! {"_id": "a", "text": text}).await.unwrap();

    // Only what a plugin fails on is withheld, and released.
    let withheld = missing.resource.get_str("collection").is_ok_and(|c| c == "archiver.quarantine");
    // Only what somebody gave notice of leaves the queue.
    let noticed = missing.resource.get_str("collection").is_ok_and(|c| c == "archiver.notices");
    if noticed && missing.action == "remove" {
        let notice = doc! {"_id": {"source": "orders", "notice": 1}, "op": "access"};
        fixture.audit.collection("archiver.notices").insert_one(notice).await.unwrap();
    }
    let resource = match (missing.resource.get_str("db"), missing.resource.get_str("collection")) {
        (Ok(""), _) => "all databases".to_owned(),
        (Ok(db), Ok("")) => db.to_owned(),
        (Ok(db), Ok(collection)) => format!("{db}.{collection}"),
        _ => "the cluster".to_owned(),
    };
    let findings = texts(&world.check().await, "fail");
    let lacks = format!("lacks {} on {resource}", missing.action);
    let named = |f: &String| f.contains(&lacks) && f.contains(role) && f.contains("deploy/mongodb-roles.js");
    assert!(findings.iter().any(named), "{lacks}\n{findings:#?}");

    // Only a service tells others that it lives, and takes that back when it ends.
    let announcing = missing.action == "remove" && resource.ends_with("archiver.leases");
    let outcome = match announcing {
        true => run_for_a_while(fixture).await,
        false if withheld && missing.action != "insert" => release(&world).await,
        // Only what expires is claimed.
        false if resource.ends_with("archiver.holds") && missing.action == "update" => expire(fixture).await,
        false => fixture.archiver.run(&["run", "--once"]).await,
    };
    assert!(
        outcome.stderr.contains("not authorized on"),
        "{role} works without {missing:?}\n{}",
        outcome.stderr
    );
    // What can't be tidied up is said, and stops nothing: the second attempt finds the rest done.
    if missing.action != "remove" || withheld || noticed {
        outcome.expect_code(UNAVAILABLE).expect_message(&["`archiver check` names it"]);
    }
}

/// Withholds an event, and tries it again under another plugin.
async fn release(world: &World<'_>) -> Outcome {
    let fixture = &world.fixture;
    let config = std::fs::read_to_string(fixture.path("archiver.toml")).unwrap();
    let (file, rules) = (tools::plugin("misbehave"), r#"{ path = "do", action = "remove" }"#);
    let bad = format!(
        "[[plugin]]\nname = \"bad\"\npath = \"{}\"\nsha256 = \"{}\"\n\n",
        file.display(),
        tools::sha256(&file)
    );
    let plugins = bad + &Fixture::redact("good", rules);
    let through = |name: &str| {
        let sections = format!("{plugins}[[source]]");
        fixture
            .write_config(&(config.replace("[[source]]", &sections) + &format!("plugins = [\"{name}\"]\n")));
    };
    through("bad");
    // Behind the baseline: only a change can be read again.
    fixture.run_once().await;
    fixture.collection("orders").insert_one(doc! {"_id": "bad", "do": "panic"}).await.unwrap();
    fixture.run_once().await;
    through("good");
    fixture.archiver.run(&["quarantine", "retry"]).await
}

/// Lets what is captured expire, as far as that works.
async fn expire(fixture: &Fixture) -> Outcome {
    let config = std::fs::read_to_string(fixture.path("archiver.toml")).unwrap();
    fixture.write_config(
        &config.replace("hot_retention = \"0s\"", "hot_retention = \"0s\"\nretention = \"1s\""),
    );
    wait_until("something is old enough to expire", LIMIT, || async {
        let outcome = fixture.archiver.run(&["run", "--once"]).await;
        (outcome.code != Some(0)).then_some(outcome)
    })
    .await
}

/// Adds, lists and releases a legal hold.
async fn hold(fixture: &Fixture) -> bool {
    let add = ["hold", "add", "--source", "orders", "--reason", "r", "--by", "b"];
    let added = fixture.archiver.run(&add).await;
    let Some(id) = added.stdout.split(' ').nth(2).filter(|_| added.code == Some(0)) else {
        assert!(added.stderr.contains("not authorized on"), "{}", added.stderr);
        return false;
    };
    fixture.ok(&["hold", "list"]).await;
    fixture.ok(&["hold", "release", id, "--reason", "r", "--by", "b"]).await;
    true
}

/// `run` until it holds the lease, then a clean stop.
async fn run_for_a_while(fixture: &Fixture) -> Outcome {
    let running = fixture.archiver.start(&["run", "--log-level", "debug"]);
    wait_until("the source runs", LIMIT, || async { fixture.checkpoint("orders").await.map(drop) }).await;
    running.terminate().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_privilege_of_the_optional_roles_is_needed_for_what_they_are_for() {
    let servers = Servers::start().await;
    let mut world = World::new(&servers);
    world
        .grant(
            &["archiverWatch", "archiverMonitor", "archiverImages", "archiverActors", "archiverAudit"],
            None,
        )
        .await;
    let orders = world.fixture.collection("orders");
    orders.insert_one(doc! {"_id": "late", "n": 1}).await.unwrap();
    world.fixture.run_once().await;
    orders.delete_one(doc! {"_id": "late"}).await.unwrap();
    world.fixture.run_once().await;
    let unseen = |findings: &[Value]| {
        texts(findings, "info").into_iter().filter(|f| f.contains("role archiverMonitor")).count()
    };
    assert_eq!(unseen(&world.check().await), 0);
    for privilege in roles::privileges("archiverMonitor", &world.names) {
        world.define("archiverMonitor", Some(&privilege)).await;
        assert_eq!(unseen(&world.check().await), 1, "without {privilege:?}");
    }

    images_are_switched_on_with_their_role_alone(&mut world).await;
    for (missing, actor) in
        [(None, Some("root@admin")), (roles::privileges("archiverActors", &world.names).pop(), None)]
    {
        world.define("archiverActors", missing.as_ref()).await;
        let root = world.servers.watched.client();
        assert_eq!(actor_of_a_transaction(&world, root).await.as_deref(), actor, "without {missing:?}");
    }
    the_owner_of_a_certificate_is_named(&world).await;

    const KNOWN: [&str; 7] = [
        "archiverMonitor",
        "archiverImages",
        "archiverActors",
        "archiverRecover",
        "archiverReplay",
        "archiverHold",
        "archiverRead",
    ];
    assert_eq!(roles::named(true), KNOWN, "a role that no test knows");
    let counsel = world.own("counsel");
    world.grant_to(&counsel, &["archiverHold"], None).await;
    assert!(hold(&world.fixture).await);
    for privilege in roles::privileges("archiverHold", &world.names) {
        world.define("archiverHold", Some(&privilege)).await;
        assert!(!hold(&world.fixture).await, "without {privilege:?}");
    }
    let person = world.own("person");
    world.grant_to(&person, &["archiverRead", "archiverRecover"], None).await;
    everything_can_be_looked_at(&world.fixture).await;
    assert_eq!(recovery(&world).await, [Some(0), Some(0)]);
    for role in ["archiverRead", "archiverRecover"] {
        for privilege in roles::privileges(role, &world.names) {
            world.define(role, Some(&privilege)).await;
            assert!(recovery(&world).await.contains(&Some(UNAVAILABLE)), "without {privilege:?}");
        }
        world.define(role, None).await;
    }
}

/// Everything that happens to documents and collections, played again by a person who may do that and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_privilege_of_the_role_for_replays_is_needed() {
    let servers = Servers::start().await;
    let mut world = World::new(&servers);
    world.watch("{db}.*");
    world.grant(&["archiverWatch", "archiverAudit"], None).await;
    world.fixture.run_once().await;
    world.fixture.db.create_collection("empty").await.unwrap();
    let orders = world.fixture.collection("orders");
    for id in [1, 2] {
        orders.insert_one(doc! {"_id": id}).await.unwrap();
        orders.update_one(doc! {"_id": id}, doc! {"$set": {"n": 1}}).await.unwrap();
    }
    orders.delete_one(doc! {"_id": 1}).await.unwrap();
    let name = |coll: &str| format!("{}.{coll}", world.fixture.db.name());
    let rename = doc! {"renameCollection": name("orders"), "to": name("renamed")};
    servers.watched.client().database("admin").run_command(rename).await.unwrap();
    world.fixture.collection("empty").drop().await.unwrap();
    world.fixture.run_once().await;
    let person = world.own("person");
    world.grant_to(&person, &["archiverRead", "archiverReplay"], None).await;
    let target = servers.watched.client().database(&world.names.targets[0]);
    let uri = servers.watched.mongod().uri_of(&format!("{person}:pass-w0rd"), "&authSource=admin");
    let output = uri.replacen("/?", &format!("/{}?", target.name()), 1);
    let replayed = async || {
        target.drop().await.unwrap();
        // In batches of one, so that documents are changed that are there already.
        let replay = ["replay", "--source", "orders", "--output", &output, "--batch", "1"];
        world.fixture.archiver.run(&replay).await
    };
    replayed().await.expect_code(0);
    let left: Vec<_> = target.list_collection_names().await.unwrap();
    assert_eq!(left, ["renamed"]);
    for privilege in roles::privileges("archiverReplay", &world.names) {
        world.define("archiverReplay", Some(&privilege)).await;
        let outcome = replayed().await;
        assert!(outcome.stderr.contains("not authorized on"), "without {privilege:?}: {}", outcome.stderr);
        outcome.expect_code(UNAVAILABLE);
    }
}

async fn images_are_switched_on_with_their_role_alone(world: &mut World<'_>) {
    let config = std::fs::read_to_string(world.fixture.path("archiver.toml")).unwrap();
    world.fixture.write_config(&(config.clone() + "enable_images = true\n"));
    let privilege = roles::privileges("archiverImages", &world.names).pop();
    let lacks = format!("lacks collMod on {}", world.fixture.db.name());
    for missing in [privilege, None] {
        world.define("archiverImages", missing.as_ref()).await;
        let warned = texts(&world.check().await, "warn").iter().any(|w| w.contains(&lacks));
        let outcome = world.fixture.run_once().await;
        let refused = outcome.stderr.contains("images could not be switched on");
        assert_eq!((warned, refused), (missing.is_some(), missing.is_some()), "{}", outcome.stderr);
    }
    world.fixture.write_config(&config);
}

/// An application that logs in with a certificate acts under the certificate's subject.
async fn the_owner_of_a_certificate_is_named(world: &World<'_>) {
    world.define("archiverActors", None).await;
    let application = world.own("application");
    let write = ["readWriteAnyDatabase".to_owned()];
    roles::certificate_account(world.servers.watched.client(), &subject(&application), &write).await;
    let key = world.servers.authority.client(&application, Validity::Present);
    let options = format!("&authMechanism=MONGODB-X509&tlsCertificateKeyFile={}", key.display());
    let uri = world.servers.watched.mongod().uri_of("", &options);
    let client = mongodb::Client::with_uri_str(uri).await.unwrap();
    let actor = actor_of_a_transaction(world, &client).await;
    assert_eq!(actor, Some(format!("{}@$external", subject(&application))));
}

/// Who changed a document in a transaction of this client's, as its record says.
async fn actor_of_a_transaction(world: &World<'_>, client: &mongodb::Client) -> Option<String> {
    let mut session = client.start_session().await.unwrap();
    let orders = client.database(world.fixture.db.name()).collection("orders");
    session.start_transaction().await.unwrap();
    let id = bson::oid::ObjectId::new();
    orders.insert_one(doc! {"_id": id}).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    world.fixture.run_once().await;
    let history =
        world.fixture.ok(&["history", "--source", "orders", "--id", &id.to_hex(), "--format", "json"]).await;
    let record: Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    record["actor"]["id"].as_str().map(str::to_owned)
}

/// Brings a document back where there is none, and over another one.
async fn recovery(world: &World<'_>) -> [Option<i32>; 2] {
    let orders = world.fixture.collection("orders");
    let to = format!("{}.orders", world.fixture.db.name());
    let apply = ["recover", "--source", "orders", "--id", "late", "--to-namespace", &to, "--apply"];
    orders.delete_many(doc! {}).await.unwrap();
    let inserted = world.fixture.archiver.run(&apply).await;
    orders.replace_one(doc! {"_id": "late"}, doc! {"n": 2}).upsert(true).await.unwrap();
    let replaced = world.fixture.archiver.run(&[&apply[..], &["--overwrite"]].concat()).await;
    [inserted.code, replaced.code]
}
