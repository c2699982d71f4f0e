//! Statements with a fixed text, for what diesel's own language cannot say. Unlike `sql_query` they are prepared once on each
//! connection: a call's path must not be planned anew each time.

/// Declares a statement: its text before its parameters, the parameters, which come in a row with commas between, and its text
/// after them. It can be run with `get_result`, `load` and `execute`; rows are `QueryableByName`.
macro_rules! fixed {
    ($name:ident { $($field:ident: $type:ty as $sql:ty),+ $(,)? }, $before:expr, $after:expr) => {
        struct $name<'a> {
            $($field: $type,)+
            // Statements without a borrowed parameter have the lifetime too.
            of: std::marker::PhantomData<&'a ()>,
        }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;

            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::query_builder::QueryFragment<diesel::pg::Pg> for $name<'_> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, diesel::pg::Pg>,
            ) -> diesel::QueryResult<()> {
                let mut between = $before;
                $(
                    out.push_sql(between);
                    out.push_bind_param::<$sql, _>(&self.$field)?;
                    between = ", ";
                )+
                let _ = between;
                out.push_sql($after);
                Ok(())
            }
        }

        impl diesel::query_builder::Query for $name<'_> {
            type SqlType = diesel::sql_types::Untyped;
        }
    };
}
pub(super) use fixed;
