//! All calls that are remembered, found by Sid and by customer without walking through the others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{call::Call, number::Number};

/// Calls that are remembered; beyond, the oldest ended ones are forgotten. Some 500 MB: a chaos run of 100,000 calls, and
/// as many again by strangers, stay in the list to its end.
const REMEMBERED_CALLS: usize = 200_000;

/// All calls, in the order in which they came.
#[derive(Default)]
pub(crate) struct Calls {
    by_sid: HashMap<String, Arc<Call>>,
    by_customer: HashMap<Number, BTreeMap<u64, Arc<Call>>>,
    order: BTreeMap<u64, Arc<Call>>,
    next: u64,
}

impl Calls {
    pub(crate) fn get(&self, sid: &str) -> Option<Arc<Call>> {
        self.by_sid.get(sid).cloned()
    }

    pub(crate) fn insert(&mut self, call: &Arc<Call>) {
        if self.order.len() >= REMEMBERED_CALLS
            && let Some(old) = self
                .order
                .values()
                .find(|call| call.report.borrow().has_ended())
                .cloned()
        {
            self.forget(&old);
        }
        self.by_sid.insert(call.sid.clone(), Arc::clone(call));
        self.by_customer
            .entry(call.request.customer.clone())
            .or_default()
            .insert(call.place, Arc::clone(call));
        self.order.insert(call.place, Arc::clone(call));
    }

    fn forget(&mut self, call: &Call) {
        self.by_sid.remove(&call.sid);
        self.order.remove(&call.place);
        let customer = &call.request.customer;
        if let Some(calls) = self.by_customer.get_mut(customer) {
            calls.remove(&call.place);
            if calls.is_empty() {
                self.by_customer.remove(customer);
            }
        }
    }

    /// The place of the next call in the order of creation.
    pub(crate) fn next_place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Call>> {
        self.order.values().cloned().collect()
    }

    /// The latest call that is wanted.
    pub(crate) fn latest(&self, wanted: impl Fn(&Arc<Call>) -> bool) -> Option<Arc<Call>> {
        self.order.values().rev().find(|call| wanted(call)).cloned()
    }

    /// The calls with these Sids.
    pub(crate) fn with_sids<'a>(&self, sids: impl IntoIterator<Item = &'a String>) -> Vec<Arc<Call>> {
        sids.into_iter().filter_map(|sid| self.get(sid)).collect()
    }

    /// The calls with one of these customers.
    pub(crate) fn with_customers(&self, customers: &[Number]) -> Vec<Arc<Call>> {
        let mut calls: BTreeMap<u64, &Arc<Call>> = BTreeMap::new();
        for customer in customers {
            let theirs = self.by_customer.get(customer).into_iter().flatten();
            calls.extend(theirs.map(|(place, call)| (*place, call)));
        }
        calls.into_values().cloned().collect()
    }
}
