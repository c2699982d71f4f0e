//! Voice agents and their versions.

use callbridge_proto::id::AgentId;
use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, HasQuery, Insertable, JoinOnDsl as _, OptionalExtension as _,
    QueryDsl as _, QueryResult, SelectableHelper as _, dsl::now, sql_query, sql_types,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    prepared::Prepared,
    schema::{agent_versions, agents},
};

/// An agent's row.
#[derive(Debug, Clone, PartialEq, Eq, HasQuery)]
#[diesel(table_name = agents, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Agent {
    pub id: Uuid,
    pub name: String,
    pub version: i32,
    pub max_concurrent_calls: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What a call needs of its agent: a version's row.
#[derive(Debug, Clone, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = agent_versions, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Version {
    pub agent_id: Uuid,
    pub version: i32,
    /// A list of URLs.
    pub endpoints: serde_json::Value,
    pub greeting_text: Option<String>,
    pub greeting_sha256: Option<Vec<u8>>,
    pub sample_rate: i32,
    pub config: String,
}

impl Agent {
    /// The agent's id.
    pub fn id(&self) -> AgentId {
        AgentId(self.id)
    }
}

impl Version {
    /// Where the agent listens, in the order to try.
    pub fn endpoints(&self) -> serde_json::Result<Vec<String>> {
        serde_json::from_value(self.endpoints.clone())
    }
}

/// Finds an agent with its current version.
pub async fn find(mut conn: &AsyncPgConnection, id: AgentId) -> QueryResult<Option<(Agent, Version)>> {
    agents::table
        .inner_join(
            agent_versions::table.on(agent_versions::agent_id
                .eq(agents::id)
                .and(agent_versions::version.eq(agents::version))),
        )
        .filter(agents::id.eq(id.0))
        .select((Agent::as_select(), Version::as_select()))
        .first(&mut conn)
        .await
        .optional()
}

/// How many calls an agent takes at one time; 0 is no cap. None: there is no such agent.
pub async fn cap(conn: &mut AsyncPgConnection, id: AgentId) -> QueryResult<Option<i32>> {
    agents::table
        .find(id.0)
        .select(agents::max_concurrent_calls)
        .first(conn)
        .await
        .optional()
}

/// Finds one version of an agent: the one that a call began with.
pub async fn version(conn: &mut AsyncPgConnection, id: AgentId, version: i32) -> QueryResult<Option<Version>> {
    Version::query()
        .filter(
            agent_versions::agent_id
                .eq(id.0)
                .and(agent_versions::version.eq(version)),
        )
        .first(conn)
        .await
        .optional()
}

/// Finds an agent and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut AsyncPgConnection, id: AgentId) -> QueryResult<Option<Agent>> {
    Agent::query()
        .filter(agents::id.eq(id.0))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()
}

/// Locks an agent's row until the transaction ends: whoever has it decides alone about the agent's slots, which calls of several
/// accounts may want.
pub async fn lock_slots(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<usize> {
    let query = sql_query("SELECT 1 FROM agents WHERE id = $1 FOR NO KEY UPDATE").bind::<sql_types::Uuid, _>(id);
    Prepared(query).execute(&mut conn).await
}

/// A page by name, after the agent `after`.
pub async fn page(
    conn: &mut AsyncPgConnection,
    after: Option<AgentId>,
    limit: i64,
) -> QueryResult<Vec<(Agent, Version)>> {
    let mut query = agents::table
        .inner_join(
            agent_versions::table.on(agent_versions::agent_id
                .eq(agents::id)
                .and(agent_versions::version.eq(agents::version))),
        )
        .select((Agent::as_select(), Version::as_select()))
        .order((agents::name, agents::id))
        .limit(limit)
        .into_boxed();
    if let Some(after) = after {
        let last: Option<String> = agents::table
            .find(after.0)
            .select(agents::name)
            .first(conn)
            .await
            .optional()?;
        let last = last.unwrap_or_default();
        query = query.filter(
            agents::name
                .gt(last.clone())
                .or(agents::name.eq(last).and(agents::id.gt(after.0))),
        );
    }
    query.load(conn).await
}

/// Adds an agent with its first version.
pub async fn insert(
    conn: &mut AsyncPgConnection,
    name: &str,
    max_concurrent_calls: i32,
    version: &Version,
) -> QueryResult<Agent> {
    let agent = diesel::insert_into(agents::table)
        .values((
            agents::id.eq(version.agent_id),
            agents::name.eq(name),
            agents::version.eq(version.version),
            agents::max_concurrent_calls.eq(max_concurrent_calls),
        ))
        .returning(Agent::as_returning())
        .get_result(conn)
        .await?;
    diesel::insert_into(agent_versions::table)
        .values(version)
        .execute(conn)
        .await?;
    Ok(agent)
}

/// Adds a version and makes it the current one. Hold the agent's lock.
pub async fn update(
    conn: &mut AsyncPgConnection,
    name: &str,
    max_concurrent_calls: i32,
    version: &Version,
) -> QueryResult<Agent> {
    diesel::insert_into(agent_versions::table)
        .values(version)
        .execute(conn)
        .await?;
    diesel::update(agents::table.find(version.agent_id))
        .set((
            agents::name.eq(name),
            agents::version.eq(version.version),
            agents::max_concurrent_calls.eq(max_concurrent_calls),
            agents::updated_at.eq(now),
        ))
        .returning(Agent::as_returning())
        .get_result(conn)
        .await
}
