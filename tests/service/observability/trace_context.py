"""The header traceparent, by which a caller continues a trace."""

TRACE = "4bf92f3577b34da6a3ce929d0e0e47{:02x}"
CALLER = "00f067aa0ba902b7"


def traceparent(number: int, *, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE.format(number)}-{CALLER}-0{int(sampled)}"}
