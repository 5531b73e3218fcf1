{{- define "bloomery.name" -}}
{{- if contains "bloomery" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-bloomery" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- /* Labels of a part; call with (list . "operator"). */ -}}
{{- define "bloomery.selector" -}}
app.kubernetes.io/name: bloomery
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "bloomery.labels" -}}
{{ include "bloomery.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{- /* The full name of an image; call with (list . "operator"). */ -}}
{{- define "bloomery.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $name := index $images (index . 1) -}}
{{- if contains "/" $name -}}
{{ $name }}
{{- else -}}
{{ printf "%s/%s:%s" $images.registry $name ($images.tag | default (index . 0).Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{- /* The podTemplate of a part, as JSON: its own entries win over those of all parts. Call with (list . "operator"). */ -}}
{{- define "bloomery.podTemplate" -}}
{{- $values := (index . 0).Values -}}
{{- $own := (index $values (index . 1)).podTemplate | default dict -}}
{{- mergeOverwrite (deepCopy ($values.podTemplate | default dict)) $own | toJson -}}
{{- end }}

{{- /* Labels of a part's pods beside its selector's, which they cannot replace; call with (list . "operator"). */ -}}
{{- define "bloomery.podLabels" -}}
{{- $labels := (include "bloomery.podTemplate" . | fromJson).labels | default dict -}}
{{- with omit $labels "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- /* Annotations of a part's pods; call with (list . "operator"). */ -}}
{{- define "bloomery.podAnnotations" -}}
{{- with (include "bloomery.podTemplate" . | fromJson).annotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- /*
The nodes of a part's pods, the registry's Secrets, and the security context of every pod: namespaces may enforce the
restricted Pod Security Standard. Call with (list . "operator").
*/ -}}
{{- define "bloomery.pod" -}}
{{- $values := (index . 0).Values -}}
{{- with omit (include "bloomery.podTemplate" . | fromJson) "labels" "annotations" }}
{{- toYaml . }}
{{ end }}
{{- with $values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- if not $values.platformIds }}
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bloomery.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "bloomery.storage.bucket" -}}
{{ .Values.storage.uri | trimPrefix "s3://" | splitList "/" | first }}
{{- end }}

{{- define "bloomery.storage.endpoint" -}}
{{- if .Values.storage.bundled -}}
http://{{ include "bloomery.name" . }}-storage.{{ .Release.Namespace }}.svc:7070
{{- else -}}
{{ .Values.storage.endpoint }}
{{- end -}}
{{- end }}

{{- /* Where MLflow names the bucket; boto3 does not find out by itself what Alibaba's, Tencent's, Huawei's and Volcengine's stores require. */ -}}
{{- define "bloomery.storage.addressingStyle" -}}
{{- if .Values.storage.addressingStyle -}}
{{ .Values.storage.addressingStyle }}
{{- else if regexMatch "\\.(aliyuncs|myqcloud|myhuaweicloud|volces)\\.com(:[0-9]+)?/?$" .Values.storage.endpoint -}}
virtual
{{- else -}}
path
{{- end -}}
{{- end }}

{{- /* The ConfigMap with certificates of private CAs. `helm upgrade --reuse-values` does not know it yet. */ -}}
{{- define "bloomery.trustedCAs" -}}
{{- (.Values.trustedCAs | default dict).configMap -}}
{{- end }}

{{- /* The hosts that are reached without the proxy; empty if there is no proxy. */ -}}
{{- define "bloomery.noProxy" -}}
{{- $proxy := .Values.proxy | default dict -}}
{{- if or $proxy.httpProxy $proxy.httpsProxy -}}
{{- $cluster := list "localhost" "127.0.0.1" "::1" ".svc" (printf ".%s" .Values.clusterDomain) -}}
{{- $private := list "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" "fc00::/7" -}}
{{- concat $cluster $private ($proxy.noProxy | default list) | join "," -}}
{{- end -}}
{{- end }}

{{- /* The volume and the mount of the certificates. */ -}}
{{- define "bloomery.trustedCAs.volume" -}}
{{- with include "bloomery.trustedCAs" . -}}
- name: trusted-cas
  configMap: {name: {{ . }}, optional: true}
{{- end }}
{{- end }}

{{- define "bloomery.trustedCAs.mount" -}}
{{- if include "bloomery.trustedCAs" . -}}
- {name: trusted-cas, mountPath: /etc/bloomery-ca, readOnly: true}
{{- end }}
{{- end }}

{{- /* The Secret in the release's namespace that MLflow and the bucket's Job read. */ -}}
{{- define "bloomery.storage.ownSecret" -}}
{{- .Values.storage.existingSecret | default (printf "%s-storage-keys" (include "bloomery.name" .)) -}}
{{- end }}

{{- define "bloomery.mlflow.uri" -}}
{{- if .Values.mlflow.bundled -}}
http://{{ include "bloomery.name" . }}-mlflow.{{ .Release.Namespace }}.svc:5000
{{- else -}}
{{ .Values.mlflow.trackingUri }}
{{- end -}}
{{- end }}

{{- /* The addresses of MLflow that the operator may contact, as a JSON list. */ -}}
{{- define "bloomery.mlflow.addresses" -}}
{{- $own := list (include "bloomery.mlflow.uri" .) -}}
{{- if .Values.mlflow.bundled -}}
{{- $host := printf "http://%s-mlflow.%s" (include "bloomery.name" .) .Release.Namespace -}}
{{- $own = list (printf "%s.svc:5000" $host) (printf "%s.svc.%s:5000" $host .Values.clusterDomain) (printf "%s:5000" $host) -}}
{{- end -}}
{{- concat $own (.Values.mlflow.allowedAddresses | default list) | compact | toJson -}}
{{- end }}

{{- /* Whether MLflow's database is the file on a volume. */ -}}
{{- define "bloomery.mlflow.sqlite" -}}
{{- if not (or .Values.mlflow.backendStoreUri .Values.mlflow.backendStoreSecret.name) }}yes{{ end -}}
{{- end }}

{{- define "bloomery.gateway.name" -}}
{{- if .Values.gateway.create -}}
{{ .Values.gateway.name | default (include "bloomery.name" .) }}
{{- else -}}
{{ .Values.gateway.name }}
{{- end -}}
{{- end }}

{{- define "bloomery.gateway.namespace" -}}
{{- if or .Values.gateway.create .Values.gateway.name -}}
{{ .Values.gateway.namespace | default .Release.Namespace }}
{{- end -}}
{{- end }}

{{- /* The namespaces that get the store's Secret, as a JSON list. */ -}}
{{- define "bloomery.secretNamespaces" -}}
{{- .Values.storage.secretNamespaces | default .Values.namespaces | default (list "default") | toJson -}}
{{- end }}

{{- /* A URL's host and port, as JSON; call with a URL. Without a port, the scheme's. */ -}}
{{- define "bloomery.port" -}}
{{- $url := urlParse . -}}
{{- $known := dict "http" 80 "https" 443 "postgresql" 5432 "postgres" 5432 "mysql" 3306 "mssql" 1433 -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (get $known (regexFind "^[a-z]+" $url.scheme) | default 443) -}}
{{- end }}

{{- /* The namespaces whose training and serving pods get NetworkPolicies, as a JSON list. */ -}}
{{- define "bloomery.policedNamespaces" -}}
{{- .Values.networkPolicy.namespaces | default (include "bloomery.secretNamespaces" . | fromJsonArray) | toJson -}}
{{- end }}
