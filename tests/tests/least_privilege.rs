//! Archiver under exactly the roles of deploy/mongodb-roles.json: watched deployment and audit database on two servers that
//! demand TLS, with passwords and with certificates; and every single privilege of these roles is needed.

use std::sync::Arc;
use std::time::Duration;

use archiver_tests::certificates::{Authority, Validity, subject};
use archiver_tests::replica_set::Settings;
use archiver_tests::roles::{self, Names, Privilege};
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Document, doc};

const LIMIT: Duration = Duration::from_secs(60);

/// Two servers with access control and TLS, and what one test has of them.
struct World {
    authority: Arc<Authority>,
    watched: Server,
    audit: Server,
    fixture: Fixture,
    names: Names,
}

impl World {
    async fn new() -> World {
        let authority = Arc::new(Authority::new());
        let settings = Settings { auth: true, tls: Some(Arc::clone(&authority)), ..Settings::default() };
        let (watched, audit) = tokio::join!(Server::own(settings.clone()), Server::own(settings));
        let fixture = Fixture::across(&watched, &audit);
        let names = Names {
            watched: vec![fixture.db.name().to_owned()],
            audit: fixture.audit.name().to_owned(),
            sources: vec!["orders".to_owned()],
        };
        fixture.configure(&format!(
            "[archive]\nurl = \"{{archive}}\"\nhot_retention = \"0s\"\n\n{}",
            Fixture::source("orders", &["orders"])
        ));
        World { authority, watched, audit, fixture, names }
    }

    fn server(&self, role: &str) -> &Server {
        match roles::roles()[role]["on"].as_str() {
            Some("watched") => &self.watched,
            _ => &self.audit,
        }
    }

    /// Gives each side its account with a password, under these roles.
    async fn with_passwords(&mut self, watched: &[&str], audit: &[&str]) {
        for (server, roles) in [(&self.watched, watched), (&self.audit, audit)] {
            for role in roles {
                roles::define(server.client(), role, &roles::privileges(role, &self.names)).await;
            }
            roles::account(server.client(), "archiver", "pass", roles).await;
        }
        let uri = |server: &Server| server.mongod().uri_of("archiver:pass", "&authSource=admin");
        self.fixture.connect(&uri(&self.watched), &uri(&self.audit));
    }

    /// A role without one of its privileges.
    async fn without(&self, role: &str, missing: &Privilege) {
        let mut privileges = roles::privileges(role, &self.names);
        privileges.retain(|p| p != missing);
        roles::define(self.server(role).client(), role, &privileges).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explore() {
    let mut world = World::new().await;
    world.with_passwords(&["archiverWatch"], &["archiverAudit"]).await;
    let f = &world.fixture;
    f.collection("orders").insert_one(doc! {"_id": "a"}).await.unwrap();
    let out = f.archiver.run(&["check"]).await;
    println!("{}\n{}", out.stdout, out.stderr);
    let out = f.archiver.run(&["run", "--once"]).await;
    println!("{:?}\n{}", out.code, out.stderr);
    for role in ["archiverWatch", "archiverAudit"] {
        for p in roles::privileges(role, &world.names) {
            f.audit.drop().await.unwrap();
            std::fs::remove_dir_all(f.archive()).ok();
            world.without(role, &p).await;
            let t = std::time::Instant::now();
            let check = f.archiver.run(&["check"]).await;
            let tc = t.elapsed();
            let out = f.archiver.run(&["run", "--once"]).await;
            println!(
                "---- {p:?} check {:?} {tc:?} run {:?} {:?}\n{}\n{}",
                check.code,
                out.code,
                t.elapsed(),
                check
                    .stdout
                    .lines()
                    .filter(|l| l.contains("FAIL") || l.contains("lacks") || l.contains("warn"))
                    .collect::<Vec<_>>()
                    .join("\n"),
                out.stderr.lines().filter(|l| !l.contains("INFO")).collect::<Vec<_>>().join("\n")
            );
        }
        roles::define(world.server(role).client(), role, &roles::privileges(role, &world.names)).await;
    }
}
