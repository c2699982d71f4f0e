//! Postgres enums: each is declared once, variant beside label. An unknown label is a decode error, never a default.

/// The SQL types, for `schema.rs`.
pub mod sql {
    use diesel::sql_types::SqlType;

    /// `call_direction`.
    #[derive(Debug, Clone, Copy, SqlType, diesel::query_builder::QueryId)]
    #[diesel(postgres_type(name = "call_direction"))]
    pub struct CallDirection;

    /// `call_state`.
    #[derive(Debug, Clone, Copy, SqlType, diesel::query_builder::QueryId)]
    #[diesel(postgres_type(name = "call_state"))]
    pub struct CallState;

    /// `dial_mode`.
    #[derive(Debug, Clone, Copy, SqlType, diesel::query_builder::QueryId)]
    #[diesel(postgres_type(name = "dial_mode"))]
    pub struct DialMode;
}

/// Declares an enum with the exact label of each variant, which is also its word in JSON and on timelines.
macro_rules! pg_enum {
    ($(#[$doc:meta])* $name:ident as $sql:ty { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            diesel::expression::AsExpression, diesel::deserialize::FromSqlRow,
        )]
        #[diesel(sql_type = $sql)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word in the database and on timelines.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }

        impl diesel::serialize::ToSql<$sql, diesel::pg::Pg> for $name {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                std::io::Write::write_all(out, self.label().as_bytes())?;
                Ok(diesel::serialize::IsNull::No)
            }
        }

        impl diesel::deserialize::FromSql<$sql, diesel::pg::Pg> for $name {
            fn from_sql(value: diesel::pg::PgValue<'_>) -> diesel::deserialize::Result<Self> {
                match value.as_bytes() {
                    $(label if label == $label.as_bytes() => Ok(Self::$variant),)+
                    other => Err(format!(
                        "unknown label {:?} of {}: this program is older than the database",
                        String::from_utf8_lossy(other),
                        stringify!($name),
                    ).into()),
                }
            }
        }
    };
}
pub(crate) use pg_enum;
