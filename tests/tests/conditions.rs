//! What `recover --where` takes a condition to mean is what a query of MongoDB's means: random documents and conditions, asked of both.

use archiver::archive::extjson;
use archiver::history::recover::Conditions;
use archiver_tests::workload::seed;
use archiver_tests::{Fixture, Server};
use bson::{Bson, DateTime, Document, Timestamp, doc, oid::ObjectId};
use bson_walker::Doc;
use futures_util::TryStreamExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt, SeedableRng};

const DOCUMENTS: i32 = 400;
const CONDITIONS: usize = 600;
const PATHS: [&str; 9] = ["a", "a.b", "a.0", "a.b.c", "a.0.b", "a.b.0", "a.1.0", "x.a", "a.b.c.0"];
const OPERATORS: [(&str, &str); 6] =
    [("=", "$eq"), ("!=", "$ne"), ("<", "$lt"), ("<=", "$lte"), (">", "$gt"), (">=", "$gte")];

fn number(rng: &mut StdRng) -> Bson {
    let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.1, 12.5, 5e-324, 1e300];
    match rng.random_range(0..8) {
        0 => Bson::Int32(rng.random_range(-2..3)),
        1 => Bson::Int64(rng.random_range(-2..3)),
        2 => Bson::Double(f64::from(rng.random_range(-4..5)) / 2.0),
        3 => Bson::Int64((1 << 53) + rng.random_range(-1..3)),
        4 => Bson::Double(2_f64.powi(rng.random_range(52..65))),
        5 => Bson::Double(*special.choose(rng).unwrap()),
        6 => Bson::Int64(*[i64::MIN, i64::MAX, -(1 << 53) - 1].choose(rng).unwrap()),
        _ => decimal(
            ["0.1", "12.50", "-2", "0E+3", "9007199254740993", "NaN", "-Infinity"].choose(rng).unwrap(),
        ),
    }
}

/// Of a kind that conditions compare.
fn ordered(rng: &mut StdRng) -> Bson {
    match rng.random_range(0..8) {
        0 => Bson::String(["", "a", "b", "ab"].choose(rng).unwrap().to_string()),
        1 => Bson::DateTime(DateTime::from_millis(rng.random_range(-1..2))),
        2 => Bson::Timestamp(Timestamp { time: rng.random_range(1..3), increment: rng.random_range(0..2) }),
        3 => Bson::ObjectId(ObjectId::from_bytes([rng.random_range(0..3); 12])),
        4 => Bson::Boolean(rng.random()),
        _ => number(rng),
    }
}

fn value(rng: &mut StdRng, depth: u8) -> Bson {
    match rng.random_range(0..if depth == 0 { 5 } else { 10 }) {
        0 => Bson::Null,
        1..=4 => ordered(rng),
        5..=7 => Bson::Array((0..rng.random_range(0..4)).map(|_| value(rng, depth - 1)).collect()),
        _ => Bson::Document(document(rng, depth - 1)),
    }
}

fn document(rng: &mut StdRng, depth: u8) -> Document {
    let mut document = doc! {};
    for name in ["a", "b", "c", "0", "1"] {
        if rng.random_range(0..2) == 0 {
            document.insert(name, value(rng, depth));
        }
    }
    document
}

fn text(value: &Bson) -> String {
    let mut text = String::new();
    let bytes = bson::serialize_to_vec(&doc! {"v": value}).unwrap();
    assert!(extjson::to_canonical(Doc::new(&bytes).unwrap(), &mut text).is_none(), "{value}");
    text.trim_start_matches("{\"v\":").strip_suffix('}').unwrap().to_owned()
}

#[tokio::test]
async fn a_condition_means_what_it_means_in_a_query() {
    let server = Server::shared().await;
    let collection = Fixture::new(&server).collection("documents");
    let seed = seed();
    println!("ARCHIVER_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut documents = Vec::new();
    for id in 0..DOCUMENTS {
        let mut document = doc! {"_id": id};
        document.extend(self::document(&mut rng, 3));
        documents.push(document);
    }
    collection.insert_many(&documents).await.unwrap();
    let mut met = 0;
    for _ in 0..CONDITIONS {
        let path = PATHS.choose(&mut rng).unwrap();
        let (sign, operator) = OPERATORS.choose(&mut rng).unwrap();
        let value = match *operator {
            "$eq" | "$ne" => value(&mut rng, 2),
            _ => ordered(&mut rng),
        };
        let condition = format!("{path}{sign}{}", text(&value));
        let conditions = Conditions::parse(std::slice::from_ref(&condition)).unwrap();
        // What is not written in braces or quotes can be a string, too.
        let text = matches!(value, Bson::Null | Bson::Boolean(_)).then(|| Bson::String(text(&value)));
        let meant = text.into_iter().chain([value]);
        let query = match *operator {
            "$ne" => doc! {"$nor": meant.map(|value| doc! {*path: {"$eq": value}}).collect::<Vec<_>>()},
            _ => doc! {"$or": meant.map(|value| doc! {*path: {*operator: value}}).collect::<Vec<_>>()},
        };
        let found: Vec<Document> =
            collection.find(query).sort(doc! {"_id": 1}).await.unwrap().try_collect().await.unwrap();
        let found: Vec<i32> = found.iter().map(|document| document.get_i32("_id").unwrap()).collect();
        for document in &documents {
            let bytes = bson::serialize_to_vec(document).unwrap();
            let is_met = conditions.match_doc(Doc::new(&bytes).unwrap());
            let id = document.get_i32("_id").unwrap();
            assert_eq!(is_met, found.contains(&id), "{condition} {document}");
        }
        met += found.len();
    }
    let all = CONDITIONS * DOCUMENTS as usize;
    assert!(met * 50 > all && met < all, "{met} of {all}");
}
