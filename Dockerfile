# The first stage builds; the second one runs, without compiler and pip cache.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE config.toml ./
COPY pacs pacs
COPY migrations migrations
RUN python -m venv /opt/pacs && /opt/pacs/bin/pip install --no-cache-dir '.[postgres]'

FROM python:3.13-slim
LABEL org.opencontainers.image.title="pacs" \
      org.opencontainers.image.description="A DICOM Query/Retrieve archive" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data pacs \
    && install --directory --owner=pacs --group=pacs /data
COPY --from=build /opt/pacs /opt/pacs
ENV PATH=/opt/pacs/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PACS_SERVER__HOST=0.0.0.0 \
    PACS_DATABASE__URL=sqlite:////data/pacs.db \
    PACS_FILES__URL=/data/files \
    PACS_WEB__HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 11112 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s CMD ["pacs", "check", "--live"]
ENTRYPOINT ["pacs"]
CMD ["serve"]
