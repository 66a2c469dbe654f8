//! A replica set of three nodes with short election timeouts, whose primary can be made to step down, or be killed.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;

use crate::replica_set::{Mongod, Settings};
use crate::server::Server;
use crate::wait::wait_until;

/// Starting three servers on a busy machine, or an election.
const LIMIT: Duration = Duration::from_secs(90);

/// Three members on loopback.
#[derive(Debug)]
pub struct ThreeNodes {
    members: Vec<Mongod>,
    /// The set as applications see it.
    pub server: Server,
}

impl ThreeNodes {
    /// Starts the members and waits until all of them are at work.
    pub async fn start(settings: Settings) -> ThreeNodes {
        let mut members = Vec::new();
        for _ in 0..3 {
            members.push(Mongod::member(settings.clone()).await.unwrap_or_else(|e| panic!("{e:#}")));
        }
        let hosts: Vec<String> = members.iter().map(Mongod::address).collect();
        let listed = |(n, host): (usize, &String)| doc! {"_id": n as i32, "host": host};
        let config = doc! {
            "_id": "rs0",
            "members": hosts.iter().enumerate().map(listed).collect::<Vec<_>>(),
            "settings": {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 200},
        };
        let admin = admin_of(&hosts[0]).await;
        admin.run_command(doc! {"replSetInitiate": config}).await.expect("a set of three can be initiated");
        wait_until("three members at work", LIMIT, async || {
            let status = admin.run_command(doc! {"replSetGetStatus": 1}).await.ok()?;
            let states = status
                .get_array("members")
                .ok()?
                .iter()
                .filter_map(|m| m.as_document()?.get_i32("state").ok());
            let states: Vec<i32> = states.collect();
            (states.contains(&1) && states.iter().filter(|s| **s == 2).count() == 2).then_some(())
        })
        .await;
        // The driver asks for the members' states twice a second, not every ten seconds.
        let uri = format!("mongodb://{}/?replicaSet=rs0&heartbeatFrequencyMS=500", hosts.join(","));
        ThreeNodes { members, server: Server::at(&uri).await }
    }

    /// Which member is the primary now.
    pub async fn primary(&self) -> usize {
        wait_until("a primary", LIMIT, async || {
            for (n, member) in self.members.iter().enumerate() {
                let hello = admin_of(&member.address()).await.run_command(doc! {"hello": 1}).await;
                if hello.is_ok_and(|hello: Document| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return Some(n);
                }
            }
            None
        })
        .await
    }

    /// Makes another member the primary.
    pub async fn step_down(&self) {
        let primary = self.members[self.primary().await].address();
        let command = doc! {"replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 3, "force": true};
        // It may close the connection instead of answering.
        let _ = admin_of(&primary).await.run_command(command).await;
    }

    /// Sets one of MongoDB's fail points on every member.
    pub async fn set_fail_point(&self, name: &str, mode: &str) {
        for member in &self.members {
            let command = doc! {"configureFailPoint": name, "mode": mode};
            admin_of(&member.address()).await.run_command(command).await.expect("test commands are enabled");
        }
    }

    /// `kill -9` of the primary, which comes back as a secondary.
    pub async fn kill_primary(&mut self) {
        let primary = self.primary().await;
        self.members[primary].kill_and_restart().await.unwrap_or_else(|e| panic!("{e:#}"));
    }
}

async fn admin_of(host: &str) -> mongodb::Database {
    let uri = format!("mongodb://{host}/?directConnection=true&serverSelectionTimeoutMS=2000");
    Client::with_uri_str(uri).await.expect("a connection string").database("admin")
}
