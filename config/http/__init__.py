"""HTTP/1.1 for the requests that come with every image, at a fraction of the CPU that urllib3 needs for one.

urllib3 makes the connections and keeps them: its pool, names, proxies, TLS and their errors. What goes over a
connection then is ours (RFC 9112): one request, its answer, nothing interpreted that nobody needs.
`python -m tests.bench` shows the CPU that each process needs for an image.

    exchange      a request whose answer is waited for; `asked` one whose answer may be waited for together with others
    request       what is sent
    answer        what comes
    connection    urllib3's connections, and its errors

Whatever breaks is an exception of urllib3: ProtocolError if the peer does not speak HTTP or has closed the connection,
ReadTimeoutError if it says nothing in time, SSLError for TLS, and those of connecting.
"""
