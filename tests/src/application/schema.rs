//! What the application does to collections: created, changed, renamed, dropped.

use std::time::Duration;

use bson::doc;
use mongodb::IndexModel;
use mongodb::error::Error;
use rand::RngExt;

use super::{RESTLESS, STEADY, Writer};

impl Writer {
    /// One change of a collection rather than of its documents.
    pub(super) async fn change_schema(&mut self) {
        let name = RESTLESS[self.rng.random_range(0..RESTLESS.len())];
        let other = RESTLESS[self.rng.random_range(0..RESTLESS.len())];
        let steady = STEADY[self.rng.random_range(0..STEADY.len())];
        let (done, outcome) = match self.rng.random_range(0..12) {
            0 | 1 => ("create", self.db.create_collection(name).await),
            2 => ("drop", self.db.collection::<bson::Document>(name).drop().await),
            3 | 4 => ("rename", self.rename(name, other).await),
            5 => ("createIndexes", self.create_index(name).await),
            6 => ("createIndexes", self.create_index(steady).await),
            7 => ("dropIndexes", self.drop_index(name).await),
            8 => ("dropIndexes", self.drop_index(steady).await),
            9 => ("collMod of an index", self.hide_index(steady).await),
            _ => ("collMod of images", self.switch_images(name).await),
        };
        self.tally.note(done, outcome);
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), Error> {
        let name = |collection| format!("{}.{collection}", self.db.name());
        let drop_target = self.rng.random_bool(0.7);
        let command = doc! {"renameCollection": name(from), "to": name(to), "dropTarget": drop_target};
        self.client.database("admin").run_command(command).await.map(drop)
    }

    async fn create_index(&mut self, collection: &str) -> Result<(), Error> {
        let field = self.index_field();
        let index = IndexModel::builder().keys(doc! {field: 1_i32}).build();
        self.db.collection::<bson::Document>(collection).create_index(index).await.map(drop)
    }

    async fn drop_index(&mut self, collection: &str) -> Result<(), Error> {
        let name = format!("{}_1", self.index_field());
        self.db.collection::<bson::Document>(collection).drop_index(name).await
    }

    async fn hide_index(&mut self, collection: &str) -> Result<(), Error> {
        let (name, hidden) = (format!("{}_1", self.index_field()), self.rng.random_bool(0.5));
        let command = doc! {"collMod": collection, "index": {"name": name, "hidden": hidden}};
        self.db.run_command(command).await.map(drop)
    }

    async fn switch_images(&mut self, collection: &str) -> Result<(), Error> {
        let enabled = self.rng.random_bool(0.5);
        let command = doc! {"collMod": collection, "changeStreamPreAndPostImages": {"enabled": enabled}};
        self.db.run_command(command).await.map(drop)
    }

    fn index_field(&mut self) -> &'static str {
        ["n", "status"][self.rng.random_range(0..2)]
    }

    /// How long one operation may take before the writer goes on with the next.
    pub(super) const LIMIT: Duration = Duration::from_secs(20);
}
