//! Statements of diesel's own language that are prepared once on each connection. By itself diesel prepares every UPDATE and every
//! INSERT of a slice anew, for their text may differ from one time to the next: that is a round trip and a plan for each.
//! Here the text is the key, so that each text is prepared once. The texts are few: a call's changes set the same columns again
//! and again.

use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
};

/// A statement whose text tells which prepared statement it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prepared<Q>(pub(super) Q);

impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();

    // The text is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}
