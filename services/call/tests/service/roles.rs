//! The roles of the database: each connects and tries what it must not do.

use std::collections::{BTreeMap, BTreeSet};

use call_service::{
    db::ROLES,
    migrate,
    store::{audit, partitions, retention},
};
use chrono::TimeDelta;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use stack::postgres::Postgres;
use tokio_postgres::{Client, error::SqlState};

use crate::service::{PATIENCE, Service, client};

const APP: &str = "callsvc_app";
const PURGE: &str = "callsvc_purge";
const REPORT: &str = "callsvc_report";

/// What may be tried with a table, by the letter of the verb. Nothing of it takes place: whoever may try it meets another error, or
/// nothing.
const VERBS: [(char, &str); 9] = [
    ('S', "SELECT FROM {} LIMIT 0"),
    ('I', "INSERT INTO {} DEFAULT VALUES"),
    ('U', "UPDATE {} SET {column} = DEFAULT WHERE false"),
    ('D', "DELETE FROM {}"),
    ('T', "TRUNCATE {}"),
    ('L', "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE"),
    ('A', "ALTER TABLE {} ADD COLUMN more integer"),
    ('X', "DROP TABLE {} CASCADE"),
    ('V', "DROP VIEW {} CASCADE"),
];

/// What each role may do. Whoever may update may lock, too; all else is refused.
const RIGHTS: [(&str, &str, &[&str]); 12] = [
    (
        APP,
        "SIUL",
        &[
            "accounts",
            "agents",
            "phones",
            "rates",
            "calls",
            "media_sessions",
            "api_keys",
            "campaigns",
            "campaign_paces",
            "campaign_imports",
        ],
    ),
    (
        APP,
        "SIUDL",
        &[
            "credentials",
            "call_commands",
            "webhook_inbox",
            "transcripts",
            "campaign_phones",
            "contacts",
            "suppressions",
            "campaign_deltas",
            "campaign_counts",
            "caller_days",
            "number_holds",
        ],
    ),
    (
        APP,
        "SI",
        &[
            "call_events",
            "campaign_history",
            "suppression_history",
            "agent_versions",
            "greetings",
            "crypto_canary",
            "campaign_zones",
        ],
    ),
    (APP, "SI", &["audit"]),
    (APP, "S", &["__diesel_schema_migrations"]),
    (PURGE, "SUL", &["calls", "media_sessions"]),
    (PURGE, "SUDL", &["webhook_inbox", "transcripts"]),
    (PURGE, "SDL", &["call_commands", "contacts"]),
    (PURGE, "S", &["campaigns", "number_holds", "__diesel_schema_migrations"]),
    (PURGE, "I", &["campaign_deltas"]),
    (REPORT, "S", &["report_calls", "report_contacts", "report_campaigns"]),
    (REPORT, "S", &["campaign_counts"]),
];

/// A cluster of its own, since roles are the cluster's; the roles; and a database that `callsvc_migrate` has migrated.
async fn migrated() -> (Postgres, String) {
    let postgres = Postgres::start().await.unwrap();
    let url = postgres.create_empty_database().await.unwrap();
    client(&url).await.batch_execute(ROLES).await.unwrap();
    migrate(&with_role(&url, "callsvc_migrate")).await.unwrap();
    (postgres, url)
}

fn with_role(url: &str, role: &str) -> String {
    url.replace("callbridge@", &format!("{role}@"))
}

/// Tables and views, with a column of each.
async fn relations(admin: &Client) -> BTreeMap<String, String> {
    let rows = admin
        .query(
            "SELECT c.relname::text, min(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
            GROUP BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Whether a statement is refused for want of a right, or because a view is no table. It is taken back.
async fn is_forbidden(db: &Client, statement: &str) -> bool {
    db.batch_execute("BEGIN READ WRITE").await.unwrap();
    let done = db.batch_execute(statement).await;
    db.batch_execute("ROLLBACK").await.unwrap();
    let refused = [&SqlState::INSUFFICIENT_PRIVILEGE, &SqlState::WRONG_OBJECT_TYPE];
    done.is_err_and(|error| error.code().is_some_and(|code| refused.contains(&code)))
}

/// What each role may do with each table, by trying.
async fn found(url: &str) -> BTreeMap<(String, String), String> {
    let relations = relations(&client(url).await).await;
    let mut found = BTreeMap::new();
    for role in [APP, PURGE, REPORT] {
        let db = client(&with_role(url, role)).await;
        for (relation, column) in &relations {
            let mut rights = String::new();
            for (letter, statement) in VERBS {
                let statement = statement.replace("{}", relation).replace("{column}", column);
                if !is_forbidden(&db, &statement).await {
                    rights.push(letter);
                }
            }
            if !rights.is_empty() {
                found.insert((role.to_owned(), relation.clone()), rights);
            }
        }
    }
    found
}

fn expected() -> BTreeMap<(String, String), String> {
    let mut expected = BTreeMap::new();
    for (role, rights, tables) in RIGHTS {
        let mut rights: Vec<char> = rights.chars().collect();
        rights.sort_by_key(|letter| VERBS.iter().position(|(verb, _)| verb == letter));
        for table in tables {
            expected.insert((role.to_owned(), (*table).to_owned()), rights.iter().collect());
        }
    }
    expected
}

#[tokio::test]
async fn each_role_may_do_what_the_table_says_and_nothing_else() {
    let (_postgres, url) = migrated().await;
    assert_eq!(found(&url).await, expected());

    // The rest of what a role might try.
    for (role, statements) in [
        (
            APP,
            &[
                "CREATE TABLE mine ()",
                "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
                "CREATE SCHEMA mine",
                "SET ROLE callsvc_migrate",
                "CREATE ROLE mine",
                "ALTER ROLE callsvc_report SUPERUSER",
                "SELECT FROM pg_authid",
                "ALTER FUNCTION call_events_drop(text) SECURITY INVOKER",
                "DELETE FROM call_events_default",
                "INSERT INTO audit (at, principal, method, subject, outcome) VALUES (now(), 'a', 'm', '', 'shown')",
                "ALTER TABLE audit DISABLE TRIGGER ALL",
                "SELECT key FROM number_hash_key",
                "SET session_replication_role = replica",
                "COPY calls TO PROGRAM 'cat'",
                "SELECT pg_read_file('PG_VERSION')",
            ][..],
        ),
        (
            PURGE,
            &[
                "CREATE TEMPORARY TABLE mine ()",
                "SELECT call_events_partitions(3)",
                "SELECT sealed FROM credentials",
                "SELECT nextval('call_events_id')",
                "SELECT number_hash('+919812340017')",
                "SELECT call_events_untell('{}')",
            ][..],
        ),
        (
            REPORT,
            &[
                "CREATE TEMPORARY TABLE mine ()",
                "SELECT customer FROM calls",
                "SELECT call_events_partitions(3)",
                "SELECT call_events_drop('call_events_2020_01')",
                "SELECT call_events_forget_late(interval '1 day', 1)",
                "SELECT number_hash('+919812340017')",
                "SELECT audit_forget(interval '1 day', 1)",
                "SELECT subject FROM audit",
            ][..],
        ),
    ] {
        let db = client(&with_role(&url, role)).await;
        for statement in statements {
            assert!(is_forbidden(&db, statement).await, "{role}: {statement}");
        }
    }
    // And what it must be able to do beside tables.
    let app = client(&with_role(&url, APP)).await;
    for statement in [
        "CREATE TEMPORARY TABLE mine ()",
        "SELECT nextval('call_events_id')",
        "SELECT call_events_partitions(4)",
        "SELECT number_hash('+919812340017')",
        "INSERT INTO audit (principal, method, subject, outcome) VALUES ('a', 'm', '', 'shown')",
    ] {
        assert!(!is_forbidden(&app, statement).await, "{statement}");
    }
    let read_only = client(&with_role(&url, REPORT)).await;
    let row = read_only
        .query_one("SHOW default_transaction_read_only", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "on");
}

/// What a right is on that is no whole table, by who has it; `public` is everybody.
const OTHER_RIGHTS: [(&str, &str, &str); 22] = [
    (APP, "audit.data", "INSERT"),
    (APP, "audit.key_id", "INSERT"),
    (APP, "audit.method", "INSERT"),
    (APP, "audit.outcome", "INSERT"),
    (APP, "audit.principal", "INSERT"),
    (APP, "audit.subject", "INSERT"),
    (APP, "audit.trace_id", "INSERT"),
    (APP, "audit_forget(interval,bigint)", "EXECUTE"),
    (APP, "call_events_drop(text)", "EXECUTE"),
    (APP, "call_events_forget_late(interval,bigint)", "EXECUTE"),
    (APP, "call_events_id", "USAGE"),
    (APP, "call_events_partitions(integer)", "EXECUTE"),
    (APP, "call_events_untell(uuid[])", "EXECUTE"),
    (APP, "number_hash(text)", "EXECUTE"),
    (APP, "suppression_history_hash(text)", "EXECUTE"),
    (PURGE, "audit_forget(interval,bigint)", "EXECUTE"),
    (PURGE, "call_events_drop(text)", "EXECUTE"),
    (PURGE, "call_events_forget_late(interval,bigint)", "EXECUTE"),
    ("public", "audit_is_kept()", "EXECUTE"),
    ("public", "masked_number(text)", "EXECUTE"),
    ("public", "rates_of_account()", "EXECUTE"),
    ("public", "uuid_v7_floor(timestamp with time zone)", "EXECUTE"),
];

/// Rights that no statement of [`VERBS`] shows: on columns, functions and sequences, those of a table that are never given, and
/// what may be passed on.
const GIVEN: &str = "
    WITH rights AS (
        SELECT CASE relkind WHEN 'S' THEN 'x' ELSE 't' END AS kind, relname::text AS what, given.*
        FROM pg_class, aclexplode(relacl) AS given WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'x', relname || '.' || attname, given.*
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl) AS given
        WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'x', pg_proc.oid::regprocedure::text, given.*
        FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS given WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'x', roleid::regrole::text, roleid, member, 'MEMBER', admin_option
        FROM pg_auth_members WHERE roleid::regrole::text ~ '^callsvc_' OR member::regrole::text ~ '^callsvc_'
    )
    SELECT coalesce(rolname::text, 'public'), what, privilege_type || CASE WHEN is_grantable THEN ' and pass it on' ELSE '' END
    FROM rights LEFT JOIN pg_roles ON pg_roles.oid = grantee
    WHERE coalesce(rolname, '') <> 'callsvc_migrate'
        AND (kind = 'x' OR is_grantable OR privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
    ORDER BY 1, 2, 3";

#[tokio::test]
async fn no_right_is_given_that_trying_does_not_show() {
    let (_postgres, url) = migrated().await;
    let rows = client(&url).await.query(GIVEN, &[]).await.unwrap();
    let given: BTreeSet<(String, String, String)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = OTHER_RIGHTS.map(|(role, what, right)| (role.to_owned(), what.to_owned(), right.to_owned()));
    assert_eq!(given, BTreeSet::from(expected));
}

/// A database that somebody else had migrated, as all were before there were roles; and both again.
#[tokio::test]
async fn an_older_database_changes_hands() {
    let postgres = Postgres::start().await.unwrap();
    let url = postgres.create_empty_database().await.unwrap();
    let admin = client(&url).await;
    admin
        .batch_execute("CREATE ROLE before LOGIN; GRANT CREATE ON SCHEMA public TO before")
        .await
        .unwrap();
    let before = with_role(&url, "before");
    migrate(&before).await.unwrap();
    for _ in 0..2 {
        admin.batch_execute(ROLES).await.unwrap();
        // What serves goes on with its role.
        let serving = client(&before).await;
        assert!(!is_forbidden(&serving, "DELETE FROM calls").await);
        migrate(&with_role(&url, "callsvc_migrate")).await.unwrap();
    }
    let owners = "SELECT count(*) FROM (
            SELECT relowner AS owner FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'c'
            UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT typowner FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
        ) AS all_owners WHERE owner <> 'callsvc_migrate'::regrole";
    assert_eq!(admin.query_one(owners, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(found(&url).await, expected());
}

/// The role that serves makes months ahead and drops old ones; never one whose calls are kept, whoever asks.
#[tokio::test]
async fn the_role_that_serves_keeps_the_months() {
    let (_postgres, url) = migrated().await;
    let admin = client(&url).await;
    let latest: String = admin
        .query_one(
            "SELECT max(relname)::text FROM pg_class WHERE relname ~ '^call_events_[0-9]{4}_[0-9]{2}$'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    admin.batch_execute(&format!("DROP TABLE {latest}")).await.unwrap();
    let service = Service::start_on(&with_role(&url, APP), &[]).await;
    service.until_ready().await;
    let owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = $1";
    let made = stack::poll("the month ahead", PATIENCE, async || {
        let row = admin.query_opt(owner, &[&latest]).await.unwrap();
        row.map(|row| row.get::<_, String>(0)).ok_or("none")
    });
    assert_eq!(made.await.unwrap(), "callsvc_migrate");
    service.stop().await;

    admin
        .batch_execute(
            "SET ROLE callsvc_migrate;
            CREATE TABLE call_events_2020_01 PARTITION OF call_events
                FOR VALUES FROM (uuid_v7_floor('2020-01-01Z')) TO (uuid_v7_floor('2020-02-01Z'));
            RESET ROLE;
            INSERT INTO accounts (id, name, sid, subdomain, calls_per_minute, max_concurrent_calls, inbound_reserve, hours_off,
                hours_start_minute, hours_end_minute, hours_time_zone)
            VALUES (gen_random_uuid(), 'a', 'a', 'api.exotel.com', 60, 0, 0, true, 0, 1440, 'Asia/Kolkata');
            INSERT INTO calls (id, version, direction, state, account_id, customer, exophone, not_before, expire_at, due_at, facts)
            SELECT uuid_v7_floor('2020-01-31 23:59:59.999Z'), 1, 'inbound', 'completed', id, '+919812340017', '+918047770001',
                now(), now(), now(), '{}' FROM accounts",
        )
        .await
        .unwrap();
    let app = client(&with_role(&url, APP)).await;
    // Wherever the session thinks that it is.
    app.batch_execute("SET TimeZone = 'America/Los_Angeles'").await.unwrap();
    let drop = async |month: &str| {
        app.query_one("SELECT call_events_drop($1)", &[&month])
            .await
            .map(|row| row.get::<_, bool>(0))
            .map_err(|error| error.code().cloned())
    };
    assert_eq!(drop("call_events_2020_01").await, Err(Some(SqlState::CHECK_VIOLATION)));
    assert_eq!(drop(&latest).await, Err(Some(SqlState::CHECK_VIOLATION)));
    for none in [
        "calls",
        "call_events_default",
        "call_events_2019_01",
        "call_events_2020_01; DROP TABLE calls",
    ] {
        assert_eq!(drop(none).await, Ok(false), "{none}");
    }
    // A table of one's own in front of another changes nothing.
    app.batch_execute("CREATE TEMPORARY TABLE calls ()").await.unwrap();
    assert_eq!(drop("call_events_2020_01").await, Err(Some(SqlState::CHECK_VIOLATION)));
    admin.execute("UPDATE calls SET blanked_at = now()", &[]).await.unwrap();
    assert_eq!(drop("call_events_2020_01").await, Ok(true));
    assert_eq!(drop("call_events_2020_01").await, Ok(false));
}

/// What is too old can be purged by the role that is made for it.
#[tokio::test]
async fn the_role_that_purges_has_all_the_rights_that_it_needs() {
    let (_postgres, url) = migrated().await;
    client(&url).await.batch_execute(crate::people::PLANTED).await.unwrap();
    let mut conn = AsyncPgConnection::establish(&with_role(&url, PURGE)).await.unwrap();
    let (conn, kept) = (&mut conn, TimeDelta::zero());
    assert_eq!(retention::forget_transcripts(conn, kept, 9).await, Ok(2));
    assert_eq!(retention::forget_recordings(conn, kept, 9).await, Ok(2));
    assert_eq!(retention::forget_webhooks(conn, kept, 9).await, Ok(2));
    assert_eq!(retention::forget_contacts(conn, kept, 9).await, Ok(0));
    assert_eq!(retention::blank(conn, kept, 9).await, Ok(2));
    assert_eq!(partitions::forget_late(conn, kept, 9).await, Ok(2));
    assert_eq!(audit::forget(conn, kept, 9).await, Ok(0));
}

/// Reports see how calls went and not with whom.
#[tokio::test]
async fn reports_see_no_number() {
    let (_postgres, url) = migrated().await;
    let report = client(&with_role(&url, REPORT)).await;
    for (number, masked) in [
        ("+919812340017", "+91******0017"),
        ("+14155550123", "+******0123"),
        ("anonymous", "******"),
        ("09812340017", "******"),
        ("+91981", "******"),
        ("", ""),
    ] {
        let row = report.query_one("SELECT masked_number($1)", &[&number]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), masked);
    }
    let columns =
        "SELECT string_agg(column_name::text, ' ') FROM information_schema.columns WHERE table_name ~ '^report_'";
    let columns: String = report.query_one(columns, &[]).await.unwrap().get(0);
    for personal in [
        "metadata",
        "variables",
        "transfer_to",
        "recording_url",
        "fingerprint",
        "sealed",
        "traceparent",
    ] {
        assert!(!columns.split(' ').any(|column| column == personal), "{personal}");
    }
}
