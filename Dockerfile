# The API: no torch, no trainer. Run with `finesmith-server api`.
FROM python:3.11-slim AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md ./
COPY app app
COPY worker worker
COPY trainer_core trainer_core
COPY migrations migrations
RUN python -m venv /opt/finesmith && /opt/finesmith/bin/pip install --no-cache-dir -c constraints.txt '.[s3]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 finesmith && mkdir /data /storage /models && chown finesmith /data /storage /models
COPY --from=build /opt/finesmith /opt/finesmith
ENV PATH=/opt/finesmith/bin:$PATH FINESMITH_DATA_DIR=/data PYTHONUNBUFFERED=1
USER finesmith
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["finesmith-server", "api", "--host", "0.0.0.0", "--port", "8000"]
