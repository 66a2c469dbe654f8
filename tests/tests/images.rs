//! Images before and after a change: why one is missing, and switching them on.

use std::time::Duration;

use archiver_tests::record::{at, integer, of, only, text};
use archiver_tests::replica_set::Settings;
use archiver_tests::{Fixture, Server, wait_until};
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;

const SOON: Duration = Duration::from_secs(60);

async fn switch(fixture: &Fixture, collection: &str, enabled: bool) {
    let command = doc! {"collMod": collection, "changeStreamPreAndPostImages": {"enabled": enabled}};
    fixture.db.run_command(command).await.unwrap();
}

async fn update(fixture: &Fixture, collection: &str, id: &str) {
    let set = doc! {"$set": {"n": 1}};
    fixture.collection(collection).update_one(doc! {"_id": id}, set).upsert(true).await.unwrap();
    fixture.collection(collection).update_one(doc! {"_id": id}, doc! {"$set": {"n": 2}}).await.unwrap();
}

/// A server on which images are gone after a second.
async fn forgetful() -> Server {
    let parameters = vec!["expiredChangeStreamPreImageRemovalJobSleepSecs=1".to_owned()];
    let server = Server::own(Settings { parameters, ..Settings::default() }).await;
    let images = doc! {"preAndPostImages": {"expireAfterSeconds": 1}};
    let set = doc! {"setClusterParameter": {"changeStreamOptions": images}};
    server.client().database("admin").run_command(set).await.unwrap();
    server
}

/// Waits until no image is left.
async fn expired(server: &Server) {
    let images = server.client().database("config").collection::<Document>("system.preimages");
    wait_until("the images to expire", SOON, async || {
        (images.count_documents(doc! {}).await.unwrap() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_missing_image_is_disabled_or_expired_as_the_setting_was_at_the_change() {
    let server = forgetful().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["*"]));
    fixture.db.create_collection("a").await.unwrap();
    fixture.create_with_images("b").await;
    fixture.run_once().await;
    update(&fixture, "a", "off").await;
    switch(&fixture, "a", true).await;
    update(&fixture, "a", "on").await;
    switch(&fixture, "a", false).await;
    update(&fixture, "a", "off again").await;
    switch(&fixture, "a", true).await;
    update(&fixture, "a", "on at last").await;
    update(&fixture, "b", "always on").await;
    let renamed = doc! {
        "renameCollection": format!("{}.b", fixture.db.name()), "to": format!("{}.c", fixture.db.name()),
    };
    server.client().database("admin").run_command(renamed).await.unwrap();
    update(&fixture, "c", "under another name").await;
    switch(&fixture, "c", false).await;
    update(&fixture, "c", "off").await;
    fixture.collection("c").drop().await.unwrap();
    fixture.create_with_images("c").await;
    update(&fixture, "c", "of another collection").await;
    expired(&server).await;
    fixture.run_once().await;
    let records = fixture.records("shop").await;
    let why = |coll: &str| -> Vec<_> {
        let updates = of(&records, &["update"]).into_iter().filter(|r| text(r, "ns.coll") == coll);
        updates.map(|r| (text(r, "key._id"), text(r, "images.before"), text(r, "images.after"))).collect()
    };
    let (off, gone) = ("disabled", "expired");
    let of_a = [("off", off, off), ("on", gone, gone), ("off again", off, off), ("on at last", gone, gone)];
    assert_eq!(why("a"), of_a);
    assert_eq!(why("b"), [("always on", gone, gone)]);
    assert_eq!(
        why("c"),
        [("under another name", gone, gone), ("off", off, off), ("of another collection", gone, gone)]
    );
}

#[tokio::test]
async fn images_that_are_switched_on_and_off_while_the_archiver_runs_are_followed() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    fixture.configure(&Fixture::source("shop", &["a"]));
    fixture.run_once().await;
    let running = fixture.start();
    fixture.create_with_images("a").await;
    for (n, enabled) in [true, false, true, false].into_iter().enumerate() {
        switch(&fixture, "a", enabled).await;
        let id = n.to_string();
        update(&fixture, "a", &id).await;
        let log = fixture.audit.collection::<Document>("shop");
        let record = wait_until("the record", SOON, async || {
            log.find_one(doc! {"op": "update", "key._id": &id}).await.unwrap()
        })
        .await;
        match enabled {
            true => assert_eq!((integer(&record, "before.n"), integer(&record, "after.n")), (1, 2)),
            false => assert_eq!(text(&record, "images.after"), "disabled"),
        }
    }
    running.terminate().await.expect_code(0);
}

async fn with_images(fixture: &Fixture) -> Vec<String> {
    let filter = doc! {"options.changeStreamPreAndPostImages.enabled": true};
    let listing = fixture.db.list_collections().filter(filter).await.unwrap();
    let mut names: Vec<_> = listing.map_ok(|c| c.name).try_collect().await.unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn enable_images_switches_them_on_for_what_is_watched_now_and_later() {
    let server = Server::shared().await;
    let fixture = Fixture::new(&server);
    let watch = Fixture::source("shop", &["early", "late", "view", "renamed"]);
    fixture.configure(&(watch.trim_end().to_owned() + "\nenable_images = true\n"));
    fixture.db.create_collection("early").await.unwrap();
    fixture.db.create_collection("other").await.unwrap();
    fixture.db.create_collection("view").view_on("early").pipeline([]).await.unwrap();
    let check = fixture.archiver.run(&["check"]).await;
    assert!(check.stdout.contains("`run` switches them on"), "{}", check.stdout);
    fixture.run_once().await;
    assert_eq!(with_images(&fixture).await, ["early"]);
    let check = fixture.archiver.run(&["check"]).await;
    assert!(check.stdout.contains("are on and kept as long as the oplog"), "{}", check.stdout);

    let running = fixture.start();
    update(&fixture, "late", "first").await;
    let on = async |count| (with_images(&fixture).await.len() == count).then_some(());
    wait_until("images of a new collection", SOON, async || on(2).await).await;
    let rename = doc! {
        "renameCollection": format!("{}.other", fixture.db.name()),
        "to": format!("{}.renamed", fixture.db.name()),
    };
    server.client().database("admin").run_command(rename).await.unwrap();
    wait_until("images of a renamed collection", SOON, async || on(3).await).await;
    assert_eq!(with_images(&fixture).await, ["early", "late", "renamed"]);
    update(&fixture, "late", "second").await;
    running.terminate().await.expect_code(0);
    fixture.run_once().await;
    let records = fixture.records("shop").await;
    assert_eq!(integer(only(&records, "update", "second"), "before.n"), 1);
    assert_eq!(at(only(&records, "update", "first"), "images.before"), Some(&Bson::from("disabled")));
}

#[tokio::test]
async fn without_the_privilege_enable_images_warns_and_capture_goes_on() {
    let server = Server::own(Settings { auth: true, ..Settings::default() }).await;
    let fixture = Fixture::new(&server);
    fixture.db.create_collection("orders").await.unwrap();
    let roles = vec![
        doc! {"role": "read", "db": fixture.db.name()},
        doc! {"role": "readWrite", "db": fixture.audit.name()},
    ];
    let admin = server.client().database("admin");
    admin.run_command(doc! {"createUser": "reader", "pwd": "p", "roles": roles}).await.unwrap();
    let uri = fixture.uri().replace("root:secret", "reader:p");
    let source = Fixture::source("shop", &["orders"]).trim_end().to_owned() + "\nenable_images = true\n";
    fixture.configure(&format!("[mongodb]\nuri = \"{uri}\"\n\n{source}"));
    let namespace = format!("database=\"{}\" collection=\"orders\"", fixture.db.name());
    fixture.run_once().await.expect_message(&["WARN", "privilege=\"collMod\"", &namespace]);
    fixture.collection("orders").insert_one(doc! {"_id": 1}).await.unwrap();
    fixture.run_once().await;
    only(&fixture.records("shop").await, "insert", 1);
}
