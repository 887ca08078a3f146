"""The gRPC faces (extra `grpc`): TorchServe's inference and management services, and the Open Inference Protocol.

One process of its own beside the HTTP processes, with the same routing table, queues and links to workers. Management calls go
to the control plane's socket as the REST calls they stand for. `protos/` holds the contracts; `all.binpb` is what protoc makes
of them (`make protos`), loaded as it is so that no generated code ties us to one release of protobuf.
"""
