"""Messages whose schema is in a Schema Registry: Avro and Protobuf in Confluent's wire format."""
