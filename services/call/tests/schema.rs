//! The migrations and `schema.rs` tell the same story.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails a test")]

use std::collections::BTreeMap;

use call_service::{
    calls::state::{Direction, State},
    db::{migrate, revert_all},
    store::phones::DialMode,
};

const SCHEMA: &str = include_str!("../src/store/schema.rs");

/// Table → column → type, with a question mark when it can be null.
type Tables = BTreeMap<String, BTreeMap<String, String>>;

/// Reads the `table!` blocks.
fn declared() -> Tables {
    let mut tables = Tables::new();
    for block in SCHEMA.split("table! {").skip(1) {
        let body: String = block
            .lines()
            .filter(|line| !line.trim_start().starts_with("use "))
            .collect::<Vec<_>>()
            .join(" ");
        let (name, rest) = body.split_once('(').expect("a table has a key");
        let columns = rest
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .expect("a table has columns")
            .0;
        let mut read = BTreeMap::new();
        for column in columns.split(',').map(str::trim).filter(|column| !column.is_empty()) {
            let (left, kind) = column.split_once("->").expect("a column has a type");
            let column = match left.split_once("sql_name = \"") {
                Some((_, rest)) => rest.split('"').next().expect("a quoted name"),
                None => left.trim(),
            };
            read.insert(column.to_owned(), sql_type(kind.trim()));
        }
        tables.insert(name.trim().to_owned(), read);
    }
    tables
}

fn sql_type(kind: &str) -> String {
    if let Some(inner) = kind.strip_prefix("Nullable<").and_then(|rest| rest.strip_suffix('>')) {
        return format!("{}?", sql_type(inner));
    }
    match kind {
        "Uuid" | "Text" | "Date" | "Int2" | "Int4" | "Int8" | "Bool" | "Timestamptz" | "Bytea" | "Jsonb" => {
            kind.to_ascii_lowercase()
        }
        "CallDirection" => "call_direction".to_owned(),
        "CallState" => "call_state".to_owned(),
        "DialMode" => "dial_mode".to_owned(),
        other => panic!("{other} is a type that this test does not know"),
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    client
}

async fn there(url: &str) -> Tables {
    let rows = connect(url)
        .await
        .query(
            "SELECT c.relname::text, a.attname::text, t.typname::text, NOT a.attnotnull
             FROM pg_attribute a
             JOIN pg_class c ON c.oid = a.attrelid
             JOIN pg_type t ON t.oid = a.atttypid
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
               AND a.attnum > 0 AND NOT a.attisdropped AND c.relname <> '__diesel_schema_migrations'",
            &[],
        )
        .await
        .unwrap();
    let mut tables = Tables::new();
    for row in rows {
        let (table, column, kind, nullable): (String, String, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let kind = if nullable { format!("{kind}?") } else { kind };
        tables.entry(table).or_default().insert(column, kind);
    }
    tables
}

async fn labels(url: &str, name: &str) -> Vec<String> {
    let rows = connect(url)
        .await
        .query(
            "SELECT enumlabel::text FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
             WHERE t.typname = $1 ORDER BY e.enumsortorder",
            &[&name],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What is left of ours in the public schema: tables, sequences, functions and types.
async fn leftovers(url: &str) -> Vec<String> {
    let rows = connect(url)
        .await
        .query(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
               AND relname NOT LIKE '\\_\\_diesel%'
             UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
               AND proname NOT LIKE 'diesel%'
             UNION ALL SELECT typname::text FROM pg_type WHERE typnamespace = 'public'::regnamespace
               AND typtype = 'e'",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

// Not multi_thread: `migrate` must work on either kind of runtime.
#[tokio::test]
async fn up_down_up_and_the_schema_is_the_declared_one() {
    let url = stack::shared_postgres()
        .await
        .unwrap()
        .create_empty_database()
        .await
        .unwrap();
    let applied = migrate(&url).await.unwrap();
    assert!(!applied.is_empty());
    assert_eq!(migrate(&url).await.unwrap(), Vec::<String>::new());
    revert_all(&url).await.unwrap();
    assert_eq!(leftovers(&url).await, Vec::<String>::new());
    assert_eq!(migrate(&url).await.unwrap(), applied);

    let declared = declared();
    assert!(declared.len() > 10, "the blocks were not read: {declared:?}");
    let there = there(&url).await;
    for (table, columns) in &there {
        assert_eq!(Some(columns), declared.get(table), "{table}");
    }
    assert_eq!(there.keys().collect::<Vec<_>>(), declared.keys().collect::<Vec<_>>());

    let words = |labels: &[&'static str]| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let states: Vec<_> = State::ALL.iter().map(|state| state.label()).collect();
    assert_eq!(labels(&url, "call_state").await, words(&states));
    let directions: Vec<_> = Direction::ALL.iter().map(|direction| direction.label()).collect();
    assert_eq!(labels(&url, "call_direction").await, words(&directions));
    let modes: Vec<_> = DialMode::ALL.iter().map(|mode| mode.label()).collect();
    assert_eq!(labels(&url, "dial_mode").await, words(&modes));
}

/// F103: many replicas' jobs at one time do the work once.
#[tokio::test]
async fn runners_at_one_time_migrate_once() {
    let url = stack::shared_postgres()
        .await
        .unwrap()
        .create_empty_database()
        .await
        .unwrap();
    let runs = futures_util::future::join_all((0..4).map(|_| migrate(&url))).await;
    let applied: Vec<usize> = runs.into_iter().map(|run| run.unwrap().len()).collect();
    assert_eq!(applied.iter().filter(|count| **count > 0).count(), 1, "{applied:?}");
}
