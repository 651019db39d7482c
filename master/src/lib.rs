//! The cluster's metadata: which masters and stores there are, which ids have been given, which
//! range lives where. One Raft group of 1, 3 or 5 members; never on the way of a lock.
