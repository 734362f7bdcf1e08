//! Who serves: policies, the backend set, eligibility. Pure: time and randomness are arguments.

pub mod settings;
