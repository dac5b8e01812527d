//! etcd's messages and calls, made from `proto/etcd.proto`.

tonic::include_proto!("etcdserverpb");
