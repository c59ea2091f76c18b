//! Asking other members over their REST APIs.
