# The service, and nothing that it does not need. docs/serving.md says how to run it:
#   docker build -t cellcode .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v "$PWD/town.cells:/db:ro" cellcode
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/cellcode
ENV PATH=/opt/cellcode/bin:$PATH
WORKDIR /src
# torch first, as a CPU build: the default one for Linux brings gigabytes for GPUs. It changes least often.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
    "$(grep '^torch==' constraints.txt)+cpu"
# Then what pyproject.toml names, before the source: a change of the source alone installs nothing again.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/cellcode && echo '__version__ = "0"' > src/cellcode/__init__.py \
    && pip install --constraint constraints.txt ".[serve]" && pip uninstall --yes cellcode
COPY src ./src
RUN pip install --no-deps . && pip uninstall --yes pip

FROM python:3.11-slim
# rasterio's wheel takes libexpat from the system, and the slim image has none.
RUN apt-get update && apt-get install --yes --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cellcode
COPY --from=build /opt/cellcode /opt/cellcode
# The root may be read-only: whatever wants to keep a cache finds /tmp.
ENV PATH=/opt/cellcode/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# The first process is the service itself: SIGTERM ends it gracefully, SIGHUP opens the database again.
ENTRYPOINT ["cellcode", "serve"]
# Other options replace this line; then say /db and --host 0.0.0.0 again.
CMD ["/db", "--host", "0.0.0.0"]
