"""The broker under the lane itself."""

from confluent_kafka.admin import AdminClient


def test_the_lane_runs_on_a_real_kafka(kafka: str) -> None:
    """The broker names its version's features, which the embedded stand-in cannot."""
    admin = AdminClient({"bootstrap.servers": kafka})
    assert admin.describe_cluster().result(timeout=10).cluster_id
