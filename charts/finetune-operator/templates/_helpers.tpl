{{/* Name of every object of the release: the release's name, with the chart's unless it is in it already. */}}
{{- define "finetune-operator.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "finetune-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Reference of an image. Arguments: image (repository, tag, digest), value (its name), version. */}}
{{- define "finetune-operator.image" -}}
{{- $repository := required (printf "set %s.repository to the repository you pushed this image to" .value) .image.repository -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.operatorImage" -}}
{{- include "finetune-operator.image" (dict "image" .Values.image "value" "image" "version" .Chart.AppVersion) -}}
{{- end -}}

{{- define "finetune-operator.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "finetune-operator.fullname" .)) -}}
{{- end -}}

{{/* Host under which training pods and the chart's test reach the progress server; the certificate names it. */}}
{{- define "finetune-operator.host" -}}
{{ include "finetune-operator.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* What Pod Security `restricted` asks of a pod. */}}
{{- define "finetune-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What it asks of a container, and a read-only root file system. */}}
{{- define "finetune-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Rights in every namespace that is served. */}}
{{- define "finetune-operator.rules" -}}
- apiGroups: [finetune-operator.io]
  resources: [finetunejobs]
  verbs: [get, list, watch, delete]
- apiGroups: [finetune-operator.io]
  resources: [finetunejobs/status]
  verbs: [patch]
# Owner references with blockOwnerDeletion need this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [finetune-operator.io]
  resources: [finetunejobs/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create]
# Gangs, where Volcano or the coscheduling plug-in is installed.
- apiGroups: [scheduling.volcano.sh, scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [get, create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
