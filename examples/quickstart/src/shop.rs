//! A small shop: customers, orders and payments, and a busy afternoon of changes of every shape.

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use mongodb::options::ChangeStreamPreAndPostImages;
use mongodb::{Client, Collection, Database};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const CUSTOMERS: i32 = 40;
const ORDERS: i32 = 120;
const STAFF: [&str; 4] = ["ada", "bertil", "chen", "dora"];

/// The shop, and the card numbers and e-mail addresses that went through it.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) db: Database,
    client: Client,
    rng: StdRng,
    pub(crate) card_numbers: Vec<String>,
    pub(crate) receipt_addresses: Vec<String>,
}

impl Shop {
    /// Creates the collections: customers and orders keep pre- and post-images, payments do not.
    pub(crate) async fn open(client: &Client, name: &str) -> Result<Shop> {
        let db = client.database(name);
        db.drop().await?;
        for collection in ["customers", "orders"] {
            let images = ChangeStreamPreAndPostImages::builder().enabled(true).build();
            db.create_collection(collection).change_stream_pre_and_post_images(images).await?;
        }
        db.create_collection("payments").await?;
        let rng = StdRng::seed_from_u64(2026);
        Ok(Shop { db, client: client.clone(), rng, card_numbers: Vec::new(), receipt_addresses: Vec::new() })
    }

    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        self.db.collection(name)
    }

    /// What the shop has before the archiver starts.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        let customers: Vec<_> = (1..=CUSTOMERS).map(|n| self.customer(n)).collect();
        self.collection("customers").insert_many(customers).await?;
        let orders: Vec<_> = (1..=ORDERS).map(|n| self.order(n)).collect();
        self.collection("orders").insert_many(orders).await?;
        let payments: Vec<_> = (1..=ORDERS / 2).map(|n| self.payment(n)).collect();
        self.collection("payments").insert_many(payments).await?;
        Ok(())
    }

    /// An afternoon: every kind of change that MongoDB knows. Gives how many of each.
    pub(crate) async fn afternoon(&mut self) -> Result<Vec<(&'static str, u32)>> {
        let mut done = vec![("orders that move on ($set)", 0), ("nested fields ($set a.b.c)", 0)];
        for n in 1..=ORDERS {
            let status = ["packed", "shipped", "returned"][self.rng.random_range(0..3)];
            let staff = self.staff();
            self.change("orders", n, doc! {"$set": {"status": status, "updatedBy": staff}}).await?;
            done[0].1 += 1;
        }
        for n in 1..=CUSTOMERS {
            let staff = self.staff();
            let street = format!("Storgata {}", self.rng.random_range(1..200));
            let set = doc! {"address.street": street, "address.geo.floor": 2_i64, "updatedBy": staff};
            self.change("customers", n, doc! {"$set": set}).await?;
            done[1].1 += 1;
        }
        done.push(("lines added to orders ($push)", self.push_lines().await?));
        done.push(("fields removed ($unset), arrays cut ($pop)", self.remove_fields().await?));
        done.push(("updates that compute (pipelines)", self.compute().await?));
        done.push(("whole documents replaced", self.replace().await?));
        done.push(("payments taken", self.pay().await?));
        done.push(("order and payment in one transaction", self.transaction().await?));
        done.push(("orders cancelled (delete)", self.cancel().await?));
        Ok(done)
    }

    async fn push_lines(&mut self) -> Result<u32> {
        for n in (1..=ORDERS).step_by(4) {
            let line = doc! {"sku": format!("EXTRA-{n}"), "count": 1, "price": 9.5};
            let staff = self.staff();
            self.change("orders", n, doc! {"$push": {"lines": line}, "$set": {"updatedBy": staff}}).await?;
        }
        Ok(ORDERS as u32 / 4)
    }

    async fn remove_fields(&mut self) -> Result<u32> {
        for n in (1..=ORDERS).step_by(5) {
            let staff = self.staff();
            let update = doc! {"$unset": {"note": ""}, "$pop": {"lines": -1}, "$set": {"updatedBy": staff}};
            self.change("orders", n, update).await?;
        }
        Ok(ORDERS as u32 / 5)
    }

    async fn compute(&mut self) -> Result<u32> {
        for n in (1..=CUSTOMERS).step_by(4) {
            let staff = self.staff();
            let stages = vec![
                doc! {"$set": {"label": {"$concat": ["$name", " <", "$email", ">"]}, "updatedBy": staff}},
                doc! {"$set": {"tags": {"$slice": ["$tags", 1]}}},
            ];
            self.collection("customers").update_one(doc! {"_id": n}, stages).await?;
        }
        Ok(CUSTOMERS as u32 / 4)
    }

    async fn replace(&mut self) -> Result<u32> {
        for n in (1..=CUSTOMERS).step_by(10) {
            let document = self.customer(n);
            self.collection("customers").replace_one(doc! {"_id": n}, document).await?;
        }
        Ok(CUSTOMERS as u32 / 10)
    }

    async fn pay(&mut self) -> Result<u32> {
        for n in ORDERS / 2 + 1..=ORDERS {
            let payment = self.payment(n);
            self.collection("payments").insert_one(payment).await?;
            let card = self.card();
            let update = doc! {"$set": {"card": card, "attempts": 2}, "$push": {"log": "card changed"}};
            self.change("payments", n, update).await?;
            let number = self.card_number();
            self.change("payments", n, doc! {"$set": {"card.number": number, "status": "captured"}}).await?;
        }
        Ok(ORDERS as u32 / 2 * 3)
    }

    async fn transaction(&mut self) -> Result<u32> {
        for n in ORDERS + 1..=ORDERS + 5 {
            let (order, payment) = (self.order(n), self.payment(n));
            let mut session = self.client.start_session().await?;
            session.start_transaction().await?;
            self.collection("orders").insert_one(order).session(&mut session).await?;
            self.collection("payments").insert_one(payment).session(&mut session).await?;
            session.commit_transaction().await?;
        }
        Ok(10)
    }

    async fn cancel(&mut self) -> Result<u32> {
        for n in (3..=ORDERS).step_by(30) {
            self.collection("orders").delete_one(doc! {"_id": n}).await?;
            self.collection("payments").delete_one(doc! {"_id": n}).await?;
        }
        Ok(ORDERS as u32 / 30 * 2)
    }

    async fn change(&self, collection: &str, id: i32, update: Document) -> Result<()> {
        self.collection(collection).update_one(doc! {"_id": id}, update).await?;
        Ok(())
    }

    fn customer(&mut self, n: i32) -> Document {
        doc! {
            "_id": n,
            "name": format!("Customer {n}"),
            "email": format!("customer{n}@example.org"),
            "since": DateTime::from_millis(1_600_000_000_000 + i64::from(n) * 86_400_000),
            "address": {"street": format!("Lille gate {n}"), "city": "Bergen", "geo": {"lat": 60.39, "lon": 5.32}},
            "points": i64::from(n) * 10,
            "tags": ["new", "newsletter"],
            "token": ObjectId::new(),
            "updatedBy": self.staff(),
        }
    }

    fn order(&mut self, n: i32) -> Document {
        let price = f64::from(self.rng.random_range(100..100_000)) / 100.0;
        doc! {
            "_id": n,
            "customer": self.rng.random_range(1..=CUSTOMERS),
            "status": "new",
            "note": "ring twice",
            "lines": [{"sku": format!("SKU-{n}"), "count": 2, "price": price}],
            "placed": DateTime::now(),
            "updatedBy": self.staff(),
        }
    }

    fn payment(&mut self, n: i32) -> Document {
        let address = format!("receipt-{n}-{}@example.org", self.rng.random_range(100_000..999_999));
        self.receipt_addresses.push(address.clone());
        doc! {
            "_id": n,
            "order": n,
            "amount": f64::from(self.rng.random_range(100..100_000)) / 100.0,
            "card": self.card(),
            "receipt": {"email": address},
            "status": "authorised",
        }
    }

    fn card(&mut self) -> Document {
        doc! {"brand": "visa", "number": self.card_number(), "expires": "12/29"}
    }

    fn card_number(&mut self) -> String {
        let number = self.rng.random_range(4_000_000_000_000_000_u64..5_000_000_000_000_000).to_string();
        self.card_numbers.push(number.clone());
        number
    }

    fn staff(&mut self) -> &'static str {
        STAFF[self.rng.random_range(0..STAFF.len())]
    }
}
