//! Archiver under exactly the roles of deploy/mongodb-roles.json: watched deployment and audit database on two servers that
//! demand TLS, with passwords and with certificates; and every single privilege of these roles is needed.

use std::sync::Arc;
use std::time::Duration;

use archiver_tests::certificates::{Authority, Validity, subject};
use archiver_tests::replica_set::Settings;
use archiver_tests::roles::{self, Names, Privilege};
use archiver_tests::{Fixture, Server, wait_until};
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

    /// Creates roles, all but one privilege of them, and an account on each side that has them.
    async fn grant(&mut self, granted: &[&str], missing: Option<&Privilege>) {
        for role in granted {
            let mut privileges = roles::privileges(role, &self.names);
            privileges.retain(|p| Some(p) != missing);
            roles::define(self.servers.of(role).client(), &self.own(role), &privileges).await;
        }
        let user = self.own("archiver");
        for server in [&self.servers.watched, &self.servers.audit] {
            let here = granted.iter().filter(|role| std::ptr::eq(self.servers.of(role), server));
            let here: Vec<String> = here.map(|role| self.own(role)).collect();
            roles::account(server.client(), &user, "pass-w0rd", &here).await;
            roles::certificate_account(server.client(), &subject(&user), &here).await;
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
        outcome.json().as_array().unwrap().clone()
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
    let running = fixture.start();
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
    let running = fixture.start();
    wait_until("the changes are captured and rolled", LIMIT, || async {
        let rolled = fixture.archiver.run(&["roll"]).await.expect_code(0);
        rolled.stdout.contains("orders").then_some(())
    })
    .await;
    running.terminate().await.expect_code(0);
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

    let mut everything = World::new(&servers);
    everything.watch("*");
    everything.grant(&["archiverWatchAll", "archiverMonitor", "archiverAudit"], None).await;
    everything
        .fixture
        .create_with_images("orders")
        .await
        .insert_one(doc! {"_id": "first", "n": 0})
        .await
        .unwrap();
    everything_works(&everything).await;

    let mut reader = World::new(&servers);
    reader.grant(&["archiverRead"], None).await;
    let _ = reader;
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
    stream::iter(cases).buffer_unordered(6).collect::<Vec<()>>().await;
}

/// Captures, rolls and trims with all privileges but the n-th of this role, which must not work.
async fn one_privilege_less(servers: &Servers, role: &str, n: usize) {
    let mut world = World::new(servers);
    let watching = if role == "archiverWatchAll" { role } else { "archiverWatch" };
    if watching == role && role == "archiverWatchAll" {
        world.watch("*");
    }
    let missing = roles::privileges(role, &world.names)[n].clone();
    world.grant(&[watching, "archiverAudit"], Some(&missing)).await;
    let fixture = &world.fixture;
    // Only what is larger than one MongoDB document takes makes use of the overflow.
    let large = missing.resource.get_str("collection").is_ok_and(|c| c == "archiver.overflow");
    let text = "x".repeat(if large { 16 * 1024 * 1024 - 100 } else { 1 });
    fixture.collection("orders").insert_one(doc! {"_id": "a", "text": text}).await.unwrap();

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
    fixture.archiver.run(&["check"]).await.expect_code(FINDINGS);

    let outcome = fixture.archiver.run(&["run", "--once"]).await;
    assert!(
        outcome.stderr.contains("not authorized on"),
        "{role} works without {missing:?}\n{}",
        outcome.stderr
    );
    // Chunks that could not be trimmed stay for the next trimming, and the second attempt has nothing else to do.
    if !(large && missing.action == "remove") {
        outcome.expect_code(UNAVAILABLE).expect_message(&["`archiver check` names it"]);
    }
}
