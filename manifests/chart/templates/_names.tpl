{{- /* Names are fixed, not made of the release's: a cluster has one driver of this name. */ -}}

{{- define "csi-fluid.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* A binding of a role to a ServiceAccount: dict "root" $ "kind" "ClusterRole" "role" ROLE "account" NAME */ -}}
{{- define "csi-fluid.binding" -}}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .role }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
