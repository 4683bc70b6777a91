"""The report: reads a run's files, never the engine."""

def write(folder): (folder/'report.html').write_text('x')
