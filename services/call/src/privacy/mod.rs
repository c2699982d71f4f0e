//! What people may ask for about their number, and what has to be kept all the same.

pub(crate) mod erase;
pub(crate) mod export;
pub(crate) mod hold;
